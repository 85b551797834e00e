// The part of a block of scores that its band shows, as rectangles for products to make or to read.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/cpu/attention_rows.h"
#include "core/cpu/interval.h"

namespace pf {

// f(seen(piece), piece) for pieces of [0, size), `step` long; neighbours that see the same are one
// piece, and what sees nothing is left out.
template <class Seen, class F>
void each_piece(std::int64_t size, std::int64_t step, Seen seen, F f) {
  Interval piece, sees;
  const auto close = [&] {
    if (sees.size() > 0) f(sees, piece);
  };
  for (std::int64_t at = 0; at < size; at += step) {
    const std::int64_t end = std::min(size, at + step);
    const Interval now = seen(Interval{at, end});
    if (now.begin != sees.begin || now.end != sees.end) {
      close();
      piece.begin = at;
      sees = now;
    }
    piece.end = end;
  }
  close();
}

// f(rows, columns): columns in pieces, and the rows that see some of them.
template <class F>
void each_columns(const Band& band, std::int64_t rows, std::int64_t columns, std::int64_t step,
                  F f) {
  each_piece(
      columns, step,
      [&](Interval some) {
        if (some.end <= band.left || some.begin >= band.right) return Interval{};
        return Interval{std::clamp<std::int64_t>(some.begin - band.upper + 1, 0, rows),
                        std::clamp<std::int64_t>(some.end - band.lower, 0, rows)};
      },
      f);
}

// f(rows, columns): rows in pieces, and the columns that some of them see.
template <class F>
void each_rows(const Band& band, std::int64_t rows, std::int64_t columns, std::int64_t step, F f) {
  each_piece(
      rows, step,
      [&](Interval some) {
        return Interval{band.first(some.begin, columns), band.last(some.end - 1, columns)};
      },
      [&](Interval seen, Interval some) { f(some, seen); });
}

}  // namespace pf
