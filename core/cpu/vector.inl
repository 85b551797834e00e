// Vectors as wide as the registers of one instruction set.
//
// Included inside a namespace and a target pragma (see kernels_v4.cpp), where one of isa_*.inl says
// how wide registers are and what is made of intrinsics. No loop here depends on the
// compiler's vectoriser.

template <class E, int n>
struct LanesOf {
  using type [[gnu::vector_size(n * sizeof(E))]] = E;
};
template <class E, int n>
using Lanes = typename LanesOf<E, n>::type;

template <class A>
constexpr int lanes = vector_bytes / int(sizeof(A));
template <class A>
using Vector = Lanes<A, lanes<A>>;

// Signed integers as wide as A.
template <class A>
using Bits = std::conditional_t<sizeof(A) == 4, std::int32_t, std::int64_t>;

// What T is added up in.
template <class T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class A>
[[gnu::always_inline]] inline Vector<A> all(A value) {
  return value - Vector<A>{};  // unlike a sum, no operation: it keeps signed zeros
}

// n <= lanes<A> elements; the others are zero.
template <class A, class T>
[[gnu::always_inline]] inline Vector<A> load(const T* from, std::int64_t n) {
  using Word = std::conditional_t<std::is_same_v<T, Bf16>, std::uint16_t, T>;
  Lanes<Word, lanes<A>> raw{};
  if (n == lanes<A>)
    __builtin_memcpy(&raw, from, sizeof raw);
  else
    __builtin_memcpy(&raw, from, std::size_t(n) * sizeof(T));
  if constexpr (std::is_same_v<T, A>) {
    return raw;
  } else if constexpr (std::is_same_v<T, Bf16> && std::is_same_v<A, float>) {
    return (Vector<A>)(widened(raw) << 16);
  } else if constexpr (std::is_same_v<T, Bf16>) {
    const auto words = __builtin_convertvector(raw, Lanes<std::uint32_t, lanes<A>>) << 16;
    return __builtin_convertvector((Lanes<float, lanes<A>>)words, Vector<A>);
  } else {
    return __builtin_convertvector(raw, Vector<A>);
  }
}

// Rounded as Bf16's constructor does.
template <class A, class T>
[[gnu::always_inline]] inline void store(T* to, Vector<A> values, std::int64_t n) {
  const auto write = [&](const auto& raw) __attribute__((always_inline)) {
    if (n == lanes<A>)
      __builtin_memcpy(static_cast<void*>(to), &raw, sizeof raw);
    else
      __builtin_memcpy(static_cast<void*>(to), &raw, std::size_t(n) * sizeof(T));
  };
  if constexpr (std::is_same_v<T, A>) {
    write(values);
  } else if constexpr (std::is_same_v<T, Bf16>) {
    using Words = Lanes<std::uint32_t, lanes<A>>;
    const auto singles = __builtin_convertvector(values, Lanes<float, lanes<A>>);
    const auto words = (Words)singles;
    const Words rounded = (words + 0x7fff + (words >> 16 & 1)) >> 16;
    const auto is_nan = singles != singles;
    const Words upper = is_nan ? words >> 16 | 0x40u : rounded;
    write(__builtin_convertvector(upper, Lanes<std::uint16_t, lanes<A>>));
  } else {
    write(__builtin_convertvector(values, Lanes<T, lanes<A>>));
  }
}

// What store and load make of x: a sum with it is the one that another kernel would make of what
// this one stored, to the last bit. No product that made x becomes part of that sum.
template <class T, class A>
[[gnu::always_inline]] inline Vector<A> as_stored(Vector<A> x) {
  if constexpr (std::is_same_v<T, A>) {
    asm("" : "+x"(x));
    return x;
  } else {
    T place[lanes<A>];
    store<A>(place, x, lanes<A>);
    return load<A>(place, lanes<A>);
  }
}

// y (+)= x
template <class A, class T>
[[gnu::always_inline]] inline void put(T* y, Vector<A> x, bool adds, std::int64_t n) {
  store<A>(y, adds ? load<A>(y, n) + as_stored<T, A>(x) : x, n);
}

// Asks for what a loop reads in its next row: processors foresee no streams of short pieces.
template <class T>
[[gnu::always_inline]] inline void prefetch_next(const T* from, std::int64_t step) {
  __builtin_prefetch(reinterpret_cast<const void*>(from + step));
}

// f(at, n) for each run of n <= lanes<A> numbers in [begin, end). f is inlined twice, so that n is
// a constant in the main loop.
template <class A, class F>
[[gnu::always_inline]] inline void sweep(std::int64_t begin, std::int64_t end, F f) {
  std::int64_t at = begin;
  for (; at + lanes<A> <= end; at += lanes<A>) f(at, lanes<A>);
  if (at < end) f(at, end - at);
}

template <int step, class V, int... lane>
[[gnu::always_inline]] inline V swapped(V v, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(v, v, (lane ^ step)...);
}

// All lanes joined by `join`; the result is in each lane.
template <class V, class Join, int step = sizeof(V) / sizeof(V{}[0]) / 2>
[[gnu::always_inline]] inline V joined(V v, Join join) {
  if constexpr (step == 0) {
    return v;
  } else {
    constexpr int count = sizeof(V) / sizeof(V{}[0]);
    const V other = swapped<step>(v, std::make_integer_sequence<int, count>());
    return joined<V, Join, step / 2>(join(v, other), join);
  }
}

// Not lambdas: of those GCC 12 says that their vectors are passed as without this instruction set.
struct Total {
  template <class V>
  [[gnu::always_inline]] V operator()(V a, V b) const {
    return a + b;
  }
};
struct Larger {
  template <class V>
  [[gnu::always_inline]] V operator()(V a, V b) const {
    return a > b ? a : b;
  }
};

template <class V>
[[gnu::always_inline]] inline auto sum(V v) {
  return joined(v, Total())[0];
}

template <class V>
[[gnu::always_inline]] inline auto largest(V v) {
  return joined(v, Larger())[0];
}

// The lanes before n; others become `otherwise`.
template <class A>
[[gnu::always_inline]] inline Vector<A> before(std::int64_t n, Vector<A> values, A otherwise) {
  if (n == lanes<A>) return values;
  for (std::int64_t lane = n; lane < lanes<A>; ++lane) values[std::size_t(lane)] = otherwise;
  return values;
}

// e^x. f32: by x = n ln 2 + r and a polynomial in r (Moshier's Cephes, expf), within 2 ulp; 0 where
// the result would be denormal, infinity from 88.3 on.
[[gnu::always_inline]] inline Vector<float> exponential(Vector<float> x) {
  using Words = Lanes<std::uint32_t, lanes<float>>;
  constexpr float to_integer = 0x1.8p23f;  // adding it leaves x rounded in the low bits
  const Vector<float> shifted = x * 1.44269504088896341f + to_integer;
  const Vector<float> whole = shifted - to_integer;
  const Vector<float> r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  Vector<float> y = r * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  y *= (Vector<float>)(((Words)shifted << 23) + std::bit_cast<std::uint32_t>(1.0f));  // 2^n
  y = x < -87.3f ? Vector<float>{} : y;
  return x > 88.3f ? all(std::numeric_limits<float>::infinity()) : y;
}

[[gnu::always_inline]] inline Vector<double> exponential(Vector<double> x) {
  for (int lane = 0; lane < lanes<double>; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}

// f32: Abramowitz and Stegun 7.1.26, within 1.5e-7.
[[gnu::always_inline]] inline Vector<float> error_function(Vector<float> x) {
  const Vector<float> size = x < 0.0f ? -x : x;
  const Vector<float> t = 1.0f / (1.0f + 0.3275911f * size);
  Vector<float> y = t * 1.061405429f - 1.453152027f;
  y = y * t + 1.421413741f;
  y = y * t - 0.284496736f;
  y = y * t + 0.254829592f;
  y = 1.0f - y * t * exponential(-size * size);
  return x < 0.0f ? -y : y;
}

[[gnu::always_inline]] inline Vector<double> error_function(Vector<double> x) {
  for (int lane = 0; lane < lanes<double>; ++lane) x[lane] = std::erf(x[lane]);
  return x;
}

// Row r of a two-dim tensor, or element r of a one-dim one. Null of an empty tensor.
template <class T>
class RowsOf {
 public:
  explicit RowsOf(const Tensor& x)
      : data_(x ? x.data<T>() : nullptr), step_(x && x.shape().dims() >= 2 ? x.pitch() : 1) {}
  explicit operator bool() const { return data_ != nullptr; }
  T* operator[](std::int64_t row) const { return data_ + row * step_; }
  std::int64_t step() const { return step_; }

 private:
  T* data_;
  std::int64_t step_;
};

// Elements as runs that are contiguous in several tensors of one shape.
class Runs {
 public:
  template <class... Tensors>
  explicit Runs(const Tensor& y, const Tensors&... xs) : columns_(y.columns()) {
    if ((y.is_contiguous() && ... && xs.is_contiguous())) columns_ = y.size();
  }
  void join(const Tensor& x) {
    if (!x.is_contiguous()) columns_ = x.columns();
  }
  // f(row, column, count)
  template <class F>
  void operator()(std::int64_t begin, std::int64_t end, F f) const {
    while (begin < end) {
      const std::int64_t row = begin / columns_, column = begin % columns_;
      const std::int64_t count = std::min(end - begin, columns_ - column);
      f(row, column, count);
      begin += count;
    }
  }

 private:
  std::int64_t columns_;
};

template <class T>
T* at(const Tensor& x, std::int64_t row, std::int64_t column) {
  return x.data<T>() + row * x.pitch() + column;
}
