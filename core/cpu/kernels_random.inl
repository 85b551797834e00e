// Kernels of random numbers: core/philox.h by vectors. See kernels.h.

// The four words of an index in the lower halves of the lanes.
using Words = Lanes<std::uint64_t, lanes<double>>;
struct Draw {
  Words first, second, third, fourth;
};

// Random::words() of `index` + lane.
[[gnu::always_inline]] inline Draw words(const Random& random, std::uint64_t first) {
  Words index = Words{} + first;
  for (std::uint64_t lane = 0; lane < lanes<double>; ++lane) index[lane] += lane;
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

// Exactly, of words below 2^32: in the last bits of 2^52. Not every instruction set can convert.
[[gnu::always_inline]] inline Vector<double> number(Words word) {
  return (Vector<double>)(word | std::bit_cast<std::uint64_t>(0x1p52)) - 0x1p52;
}

// In (0, 1), of 53 bits.
[[gnu::always_inline]] inline Vector<double> fraction(Words bits) {
  const Vector<double> whole = number(bits >> 32) * 0x1p32 + number(bits & 0xffffffff);
  return (whole + 0.5) * 0x1p-53;
}

// Random::uniform() of `first` + lane, exactly.
[[gnu::always_inline]] inline Vector<double> uniforms(const Random& random, std::uint64_t first) {
  const Draw draw = words(random, first);
  return fraction((draw.first << 32 | draw.second) >> 11);
}

// log x of positive, normal x = 2^e m, by log m = 2 artanh((m - 1) / (m + 1)). Within 1e-11 where
// T is f32.
template <class T>
[[gnu::always_inline]] inline Vector<double> logarithm(Vector<double> x) {
  const auto bits = (Words)x;
  auto m = (Vector<double>)((bits & 0xfffffffffffff) | std::bit_cast<std::uint64_t>(1.0));
  Vector<double> e = number(bits >> 52) - 1023.0;
  const auto is_high = m > std::numbers::sqrt2;
  m = is_high ? m * 0.5 : m;
  e = is_high ? e + 1 : e;
  const Vector<double> s = (m - 1) / (m + 1), z = s * s;
  constexpr int last = std::is_same_v<T, float> ? 13 : 23;
  Vector<double> p = all(1.0 / last);
  for (int odd = last - 2; odd >= 3; odd -= 2) p = p * z + 1.0 / odd;
  constexpr double ln2_upper = 0x1.62e42fee00000p-1, ln2_lower = 0x1.a39ef35793c76p-33;
  return e * ln2_upper + (2 * s + (2 * s * z * p + e * ln2_lower));
}

// cos 2 pi x of x in [0, 1] as sin 2 pi (1/4 - x), where x and 1 - x are alike. Within 1e-11 where
// T is f32.
template <class T>
[[gnu::always_inline]] inline Vector<double> cosine_of_turns(Vector<double> x) {
  const Vector<double> t = (0.25 - (x > 0.5 ? 1 - x : x)) * (2 * std::numbers::pi), z = t * t;
  Vector<double> p = all(1.0);
  constexpr int last = std::is_same_v<T, float> ? 16 : 22;
  for (int n = last; n >= 2; n -= 2) p = 1 - p * z * (1.0 / (n * (n + 1)));
  return t * p;
}

// Random::normal() of `first` + lane, but for rounding in f64, or as exactly as T holds it.
template <class T>
[[gnu::always_inline]] inline Vector<double> normals(const Random& random, std::uint64_t first) {
  const Draw draw = words(random, first);
  const Vector<double> u = fraction(draw.first << 21 ^ draw.second >> 11);
  const Vector<double> v = fraction(draw.third << 21 ^ draw.fourth >> 11);
  return Vector<double>(square_root(-2 * logarithm<T>(u))) * cosine_of_turns<T>(v);
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
    sweep<double>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
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
    const auto next = std::uint64_t(index + column);
    sweep<double>(
        0, count, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<double>(to + c, normals<T>(random, next + std::uint64_t(c)) * std, n);
        });
    begin += count;
  }
}
