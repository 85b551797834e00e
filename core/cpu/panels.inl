// See panels.h. Included as core/cpu/kernels.inl is.

namespace {

#include "core/cpu/vector.inl"

// Two vectors to a row of C, in as many rows as leave registers for B and for an element of A.
constexpr std::int64_t tile_rows = vector_bytes == 64 ? 12 : vector_bytes == 32 ? 6 : 4;
static_assert(whole_tiles % tile_rows == 0);
template <class T>
constexpr std::int64_t panel_width = 2 * lanes<T>;

template <class T, std::int64_t rows, bool in_slabs>
void multiply_tile(const typename PanelKernels<T>::Product& p, const T* a, T* c) {
  Vector<T> sums[rows][2];
  // Where the next tile of C will be is fetched while the sums of this one are made.
#pragma GCC unroll 12
  for (std::int64_t r = 0; r < rows; ++r) __builtin_prefetch(c + (rows + r) * p.c_pitch, 1);
#pragma GCC unroll 12
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t half = 0; half < 2; ++half)
      sums[r][half] = p.adds ? load<T>(c + r * p.c_pitch + half * lanes<T>, lanes<T>) : Vector<T>{};
  const T* b = p.b;
  for (std::int64_t i = 0; i < p.k; ++i, b += panel_width<T>) {
    const Vector<T> left = load<T>(b, lanes<T>), right = load<T>(b + lanes<T>, lanes<T>);
#pragma GCC unroll 12
    for (std::int64_t r = 0; r < rows; ++r) {
      const Vector<T> x = all(in_slabs ? a[i * tile_rows + r] : a[r * p.a_pitch + i]);
      sums[r][0] += x * left;
      sums[r][1] += x * right;
    }
  }
#pragma GCC unroll 12
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t half = 0; half < 2; ++half)
      store<T>(c + r * p.c_pitch + half * lanes<T>, sums[r][half], lanes<T>);
}

template <class T, bool in_slabs>
struct Tiles {
  using Tile = void (*)(const typename PanelKernels<T>::Product&, const T*, T*);
  template <int... row>
  static constexpr auto of(std::integer_sequence<int, row...>) {
    return std::array<Tile, sizeof...(row)>{multiply_tile<T, row + 1, in_slabs>...};
  }
  // [rows - 1]
  static constexpr auto table = of(std::make_integer_sequence<int, int(tile_rows)>());
};

template <class T, bool in_slabs>
void multiply_rows(const typename PanelKernels<T>::Product& p) {
  for (std::int64_t r = 0; r < p.rows; r += tile_rows) {
    const std::int64_t rows = std::min(tile_rows, p.rows - r);
    Tiles<T, in_slabs>::table[std::size_t(rows - 1)](
        p, p.a + (in_slabs ? r / tile_rows : r) * p.a_pitch, p.c + r * p.c_pitch);
  }
}

template <class T>
void copy_block(T* to, std::int64_t to_pitch, const T* from, std::int64_t from_pitch,
                std::int64_t rows, std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; ++r)
    std::copy_n(from + r * from_pitch, columns, to + r * to_pitch);
}

template <class T>
void multiply(const typename PanelKernels<T>::Product& product) {
  const auto run = product.in_slabs ? multiply_rows<T, true> : multiply_rows<T, false>;
  if (product.columns == panel_width<T>) return run(product);
  // Through a tile whose columns are all there.
  alignas(64) T tile[tile_rows * panel_width<T>] = {};
  typename PanelKernels<T>::Product part = product;
  part.c = tile;
  part.c_pitch = panel_width<T>;
  for (std::int64_t r = 0; r < product.rows; r += tile_rows) {
    part.rows = std::min(tile_rows, product.rows - r);
    part.a = product.a + (product.in_slabs ? r / tile_rows : r) * product.a_pitch;
    T* c = product.c + r * product.c_pitch;
    if (part.adds) copy_block(tile, panel_width<T>, c, product.c_pitch, part.rows, product.columns);
    run(part);
    copy_block(c, product.c_pitch, tile, panel_width<T>, part.rows, product.columns);
  }
}

// to [n / width, k, width] = from [k, n], filled up with zeros, `step` elements from one panel to
// the next. A few panels at a time: more would be written to the same few sets of the first-level
// cache.
template <class T>
void pack_rows(T* to, std::int64_t step, const T* from, std::int64_t pitch, std::int64_t k,
               std::int64_t n) {
  constexpr std::int64_t width = panel_width<T>, few = 4, rows_ahead = 8;
  std::int64_t j = 0;
  for (; j + few * width <= n; j += few * width, to += few * step)
    for (std::int64_t i = 0; i < k; ++i)
#pragma GCC unroll 4
      for (std::int64_t panel = 0; panel < few; ++panel) {
        const T* row = from + i * pitch + j + panel * width;
        prefetch_next(row, rows_ahead * pitch);
        std::memcpy(to + panel * step + i * width, row, width * sizeof(T));
      }
  for (; j < n; j += width, to += step) {
    const std::int64_t columns = std::min(width, n - j);
    for (std::int64_t i = 0; i < k; ++i) {
      T* row = to + i * width;
      std::fill(std::copy_n(from + i * pitch + j, columns, row), row + width, T(0));
    }
  }
}

template <int distance, class V, int... lane>
[[gnu::always_inline]] inline void exchange(V& upper, V& lower,
                                            std::integer_sequence<int, lane...>) {
  constexpr int count = sizeof...(lane);
  const V a = upper, b = lower;
  upper =
      __builtin_shufflevector(a, b, ((lane & distance) != 0 ? count + lane - distance : lane)...);
  lower =
      __builtin_shufflevector(a, b, ((lane & distance) != 0 ? count + lane : lane + distance)...);
}

// Swaps the off-diagonal quarters of ever larger squares: after distance d, bit d of the row's
// number and bit d of the lane's have changed places.
template <class T, int distance = 1>
[[gnu::always_inline]] inline void transpose(Vector<T> (&rows)[lanes<T>]) {
  if constexpr (distance < lanes<T>) {
#pragma GCC unroll 16
    for (int r = 0; r < lanes<T>; ++r)
      if ((r & distance) == 0)
        exchange<distance>(rows[r], rows[r + distance],
                           std::make_integer_sequence<int, lanes<T>>());
    transpose<T, distance * 2>(rows);
  }
}

// to[j, i] = from[i, j] of a square as wide as registers; pitches in bytes.
template <class T>
[[gnu::always_inline]] inline void transpose_square(void* to, std::int64_t to_pitch,
                                                    const void* from, std::int64_t from_pitch) {
  Vector<T> square[lanes<T>];
#pragma GCC unroll 16
  for (std::int64_t r = 0; r < lanes<T>; ++r)
    std::memcpy(&square[r], static_cast<const char*>(from) + r * from_pitch, sizeof square[r]);
  transpose<T>(square);
#pragma GCC unroll 16
  for (std::int64_t r = 0; r < lanes<T>; ++r)
    std::memcpy(static_cast<char*>(to) + r * to_pitch, &square[r], sizeof square[r]);
}

// The same of the transpose of from [n, k].
template <class T>
void pack_columns(T* to, std::int64_t step, const T* from, std::int64_t pitch, std::int64_t k,
                  std::int64_t n) {
  constexpr std::int64_t width = panel_width<T>;
  for (std::int64_t j = 0; j < n; j += lanes<T>) {
    T* panel = to + j / width * step + j % width;
    const std::int64_t columns = std::min<std::int64_t>(lanes<T>, n - j);
    const std::int64_t whole = columns == lanes<T> ? k / lanes<T> * lanes<T> : 0;
    for (std::int64_t i = 0; i < whole; i += lanes<T>)
      transpose_square<T>(panel + i * width, width * std::int64_t(sizeof(T)), from + j * pitch + i,
                          pitch * std::int64_t(sizeof(T)));
    for (std::int64_t i = whole; i < k; ++i)
      for (std::int64_t c = 0; c < lanes<T>; ++c)
        panel[i * width + c] = c < columns ? from[(j + c) * pitch + i] : T(0);
  }
  if (const std::int64_t done = (n + lanes<T> - 1) / lanes<T> * lanes<T>; done % width != 0)
    for (std::int64_t i = 0; i < k; ++i)
      std::fill_n(to + done / width * step + i * width + lanes<T>, lanes<T>, T(0));
}

template <class T>
void pack_panels(T* to, std::int64_t step, const Matrix<T>& b, std::int64_t k, std::int64_t n) {
  if (b.transposed)
    pack_columns(to, step, b.data, b.pitch, k, n);
  else
    pack_rows(to, step, b.data, b.pitch, k, n);
}

// Each line of `stored` is read once, in order of its rows, which lie far apart. Where there is
// enough, whole vectors are copied, a little more than a slab's row, over which the next is
// written.
template <class T>
void pack_slabs(T* to, std::int64_t step, const T* stored, std::int64_t pitch, std::int64_t m,
                std::int64_t k) {
  constexpr std::int64_t rows_ahead = 16, line = 64 / std::int64_t(sizeof(T));
  constexpr std::int64_t copied = (tile_rows + lanes<T> - 1) / lanes<T> * lanes<T>;
  for (std::int64_t i = 0; i < k; ++i) {
    const T* row = stored + i * pitch;
    for (std::int64_t c = 0; c < m; c += line) prefetch_next(row + c, rows_ahead * pitch);
    T* slab = to + i * tile_rows;
    std::int64_t at = 0;
    for (; at + copied <= m; at += tile_rows, slab += step)
      std::memcpy(slab, row + at, copied * sizeof(T));
    for (; at < m; at += tile_rows, slab += step)
      std::fill(std::copy_n(row + at, std::min(tile_rows, m - at), slab), slab + tile_rows, T(0));
  }
}

// Words are moved as floats, whose bits no move changes.
void transpose_words(void* to, std::int64_t to_pitch, const void* from, std::int64_t from_pitch) {
  for (std::int64_t i = 0; i < 16; i += lanes<float>)
    for (std::int64_t j = 0; j < 16; j += lanes<float>)
      transpose_square<float>(static_cast<char*>(to) + j * to_pitch + i * 4, to_pitch,
                              static_cast<const char*>(from) + i * from_pitch + j * 4, from_pitch);
}

// The next 32 rows are asked for: they lie far apart.
void join_rows(void* to, const Bf16* from, std::int64_t pitch) {
  using Words = Lanes<std::uint32_t, lanes<float>>;
  using Halves = Lanes<std::uint16_t, lanes<float>>;
  for (std::int64_t i = 0; i < 16; ++i)
    for (std::int64_t j = 0; j < 16; j += lanes<float>) {
      Halves upper, lower;
      const Bf16* at = from + 2 * i * pitch + j;
      prefetch_next(at, 32 * pitch);
      prefetch_next(at, 33 * pitch);
      std::memcpy(&upper, at, sizeof upper);
      std::memcpy(&lower, at + pitch, sizeof lower);
      const Words words = (Words)widened(upper) | (Words)widened(lower) << 16;
      std::memcpy(static_cast<std::uint32_t*>(to) + i * 16 + j, &words, sizeof words);
    }
}

void widen_rows(float* to, const Bf16* from, std::int64_t pitch, std::int64_t rows,
                std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; ++r)
    sweep<float>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<float>(to + r * columns + c, load<float>(from + r * pitch + c, n), n);
        });
}

// Pairs of rows lie in words, the upper row in the lower half.
void widen_panels(float* to, const Bf16* panel, std::int64_t first, std::int64_t k) {
  using Words = Lanes<std::uint32_t, lanes<float>>;
  constexpr std::int64_t width = panel_width<float>;
  for (std::int64_t i = 0; i < k; i += 2) {
    const std::int64_t row = first + i;
    const Bf16* pairs = panel + row / 32 * 1024 + row % 32 / 2 * 32;
    for (std::int64_t j = 0; j < 32; j += lanes<float>) {
      Words words;
      __builtin_memcpy(&words, pairs + j / 16 * 512 + j % 16 * 2, sizeof words);
      float* at = to + j / width * width * k + i * width + j % width;
      store<float>(at, (Vector<float>)(words << 16), lanes<float>);
      if (i + 1 < k) store<float>(at + width, (Vector<float>)(words & 0xffff0000u), lanes<float>);
    }
  }
}

void narrow_rows(Bf16* to, std::int64_t to_pitch, const float* from, std::int64_t from_pitch,
                 std::int64_t rows, std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; ++r)
    sweep<float>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<float>(to + r * to_pitch + c, load<float>(from + r * from_pitch + c, n), n);
        });
}

}  // namespace

template <class T>
const PanelKernels<T>& panel_kernels() {
  static constexpr PanelKernels<T> kernels{tile_rows, panel_width<T>, multiply<T>, pack_panels<T>,
                                           pack_slabs<T>};
  return kernels;
}

template const PanelKernels<float>& panel_kernels();
template const PanelKernels<double>& panel_kernels();

const Bf16Loops& bf16_loops() {
  static constexpr Bf16Loops loops{widen_rows, widen_panels, narrow_rows, join_rows,
                                   transpose_words};
  return loops;
}
