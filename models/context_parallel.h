// Sequences cut over cp.
#pragma once

#include <span>
#include <vector>

#include "models/context.h"

namespace pf {

// Each sequence is cut into 2 cp chunks of one size, of which rank r holds numbers r and 2 cp - 1 -
// r: of what is causal all ranks then have the same work. On one rank of cp: the whole sequence.
std::int64_t chunk_of(std::int64_t length, std::int64_t cp);

// What the length of a sequence is a multiple of, so that cp can cut it and tp each rank's part.
std::int64_t length_unit(std::int64_t tp, std::int64_t cp);

// Where the tokens of [sequences * length] are: this rank's rows, sequence after sequence, and the
// rows of all ranks one after the other, as all_gather() has them. Throws Error unless 2 cp divides
// length.
std::vector<RowRange> rows_of_rank(std::int64_t sequences, std::int64_t length, const Mesh& mesh);
std::vector<RowRange> rows_of_all(std::int64_t sequences, std::int64_t length, const Mesh& mesh);

// The rows [begin, end) of these, counted from `begin`: all_gather()'s rows of some ranks.
std::vector<RowRange> rows_between(std::span<const RowRange> ranges, std::int64_t begin,
                                   std::int64_t end);

// What areas, in tokens, are in rows of the queries of this rank and its neighbours, and of the
// keys of each neighbourhood of so many consecutive ranks: see ring_attention().
std::vector<std::vector<Area>> areas_in_ring(std::span<const Area> areas, const Batch& batch,
                                             const Mesh& mesh, int neighbours);

// This rank's rows of a batch that has all of them.
Batch cut_over_cp(const Batch& whole, const Mesh& mesh);

// What areas, in tokens, are in rows of queries and of keys: rectangles that do not overlap, none
// empty.
std::vector<Area> areas_in_rows(std::span<const Area> areas, std::span<const RowRange> queries,
                                std::span<const RowRange> keys);

}  // namespace pf
