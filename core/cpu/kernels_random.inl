// Kernels of random numbers, bit by bit those of core/philox.h. See kernels.h.

// The two upper words of philox() for indices `low` + 2^32 `high`, one in each 64-bit lane.
struct Uniform {
  using Words = Lanes<std::uint64_t, lanes<double>>;
  Words first, second, third, fourth;
};

[[gnu::always_inline]] inline Uniform philox_words(const Random& random, Uniform::Words index) {
  using Words = Uniform::Words;
  constexpr std::uint64_t mask = 0xffffffff;
  Words a = index & mask, b = index >> 32;
  Words c = Words{} + random.stream, d = Words{} + random.step;
  auto key0 = std::uint32_t(random.seed), key1 = std::uint32_t(random.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const Words left = wide_product(a, Words{} + 0xD2511F53u);
    const Words right = wide_product(c, Words{} + 0xCD9E8D57u);
    a = (right >> 32) ^ b ^ std::uint64_t{key0};
    b = right & mask;
    c = (left >> 32) ^ d ^ std::uint64_t{key1};
    d = left & mask;
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return {a, b, c, d};
}

// Random::uniform() of `first` + lane.
[[gnu::always_inline]] inline Vector<double> uniforms(const Random& random, std::uint64_t first) {
  Uniform::Words index = Uniform::Words{} + first;
  for (std::uint64_t lane = 0; lane < lanes<double>; ++lane) index[lane] += lane;
  const Uniform words = philox_words(random, index);
  const auto bits = (Vector<std::int64_t>)((words.first << 32 | words.second) >> 11);
  return (__builtin_convertvector(bits, Vector<double>) + 0.5) * 0x1p-53;
}

template <class T>
void dropout(const Tensor& y, const Tensor& x, double p, const Random& random, const Tensor& token,
             std::int64_t width, std::int64_t first_column, std::int64_t begin, std::int64_t end) {
  const RowsOf<T> ys(y), xs(x);
  const RowsOf<std::int64_t> tokens(token);
  const std::int64_t columns = y.columns();
  const double factor = 1 / (1 - p);
  for (std::int64_t r = begin; r < end; ++r) {
    T* to = ys[r];
    const T* from = xs[r];
    const auto first = std::uint64_t(*tokens[r] * width + first_column);
    sweep<double>(0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
      const Vector<double> value = load<double>(from + c, n) * factor;
      const Vector<double> draw = uniforms(random, first + std::uint64_t(c));
      store<double>(to + c, draw < p ? Vector<double>{} : value, n);
    });
  }
}

// Only of accumulation types.
template <class T>
void normal(const Tensor& y, const Random& random, double std, const Shape& whole,
            std::span<const std::int64_t> first, std::int64_t begin, std::int64_t end) {
  const std::int64_t columns = y.columns();
  while (begin < end) {
    const std::int64_t row = begin / columns, column = begin % columns;
    const std::int64_t count = std::min(end - begin, columns - column);
    // The number in `whole` of the row's first element: digits of `row` in mixed base, moved.
    std::int64_t index = 0, step = 1, left = row * columns;
    for (int dim = y.shape().dims() - 1; dim >= 0; --dim) {
      index += (left % y.extent(dim) + first[std::size_t(dim)]) * step;
      left /= y.extent(dim);
      step *= whole[dim];
    }
    T* to = at<T>(y, row, column);
    for (std::int64_t c = 0; c < count; ++c)
      to[c] = T(std * random.normal(std::uint64_t(index + column + c)));
    begin += count;
  }
}
