// Which documents are held out: a property of a document's bytes alone, so that neither its place
// nor its neighbours matter. launch/corpora computes the same.
#pragma once

#include <cstdint>
#include <span>

namespace pf {

// fmix64(crc32(document) + 2^32 * length), with zlib's crc32 and the finaliser of MurmurHash3
// (Appleby 2011). More than 1 GB/s.
std::uint64_t document_hash(std::span<const std::uint8_t> document);

// True for about `share` of all documents, those whose hash is below share * 2^64, 0 <= share < 1.
// An empty document is not held out.
bool is_heldout(std::span<const std::uint8_t> document, double share);

}  // namespace pf
