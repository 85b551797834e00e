// See attention_rows.h. Included as core/cpu/kernels.inl is.

namespace {

#include "core/cpu/vector.inl"

template <class T>
void zero(T* to, std::int64_t begin, std::int64_t end) {
  if (begin < end)
    std::memset(static_cast<void*>(to + begin), 0, std::size_t(end - begin) * sizeof(T));
}

// e^x for x <= 0, within 4e-7 |x| + 2e-7 of it, and about 1e-38 where that would be less: 2^n 2^r
// with a polynomial in r that is the best of its degree (Remez).
[[gnu::always_inline]] inline Vector<float> decay(Vector<float> x) {
  constexpr float to_integer = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  Vector<float> power = x * 1.44269504088896341f;
  power = power < -126.0f ? all(-126.0f) : power;
  const Vector<float> shifted = power + to_integer;
  const Vector<float> r = power - (shifted - to_integer);
  Vector<float> y = r * COEF5 + COEF4;
  y = y * r + COEF3;
  y = y * r + COEF2;
  y = y * r + COEF1;
  y = y * r + COEF0;
  return (Vector<float>)((Vector<std::int32_t>)y + ((Vector<std::int32_t>)shifted << 23));
}

[[gnu::always_inline]] inline Vector<double> decay(Vector<double> x) {
  return exponential(x);
}

template <class A, int... lane>
[[gnu::always_inline]] inline Vector<Bits<A>> numbers(std::integer_sequence<int, lane...>) {
  return Vector<Bits<A>>{Bits<A>(lane)...};
}

// f(c, keep) for the columns c, c + 1, ... of each vector that has some of [first, last), where
// keep(x, y) is x in those and y in others. Vectors begin at multiples of their width, and are
// whole: rows of scores have room for that.
template <class A, class F>
[[gnu::always_inline]] inline void sweep_seen(std::int64_t first, std::int64_t last, F f) {
  const auto keep_all = [](Vector<A> x, Vector<A>) __attribute__((always_inline)) {
    return x;
  };
  const Vector<Bits<A>> lane = numbers<A>(std::make_integer_sequence<int, lanes<A>>());
  for (std::int64_t c = first / lanes<A> * lanes<A>; c < last; c += lanes<A>) {
    if (c >= first && c + lanes<A> <= last) {
      f(c, keep_all);
      continue;
    }
    const auto is_seen = (lane >= Bits<A>(first - c)) & (lane < Bits<A>(last - c));
    f(
        c, [&](Vector<A> x, Vector<A> y)
               __attribute__((always_inline)) { return is_seen ? x : y; });
  }
}

template <class T>
void zero_unseen(T* to, std::int64_t first, std::int64_t last, std::int64_t columns) {
  constexpr std::int64_t width = lanes<Sum<T>>;
  zero(to, 0, first / width * width);
  zero(to, (last + width - 1) / width * width, columns);
}

template <class T>
void softmax(const typename AttentionRows<T>::Softmax& block) {
  using A = Sum<T>;
  for (std::int64_t r = 0; r < block.rows; ++r) {
    const std::int64_t first = block.band.first(r, block.columns);
    const std::int64_t last = block.band.last(r, block.columns);
    const A* scores = block.scores + r * block.pitch;
    T* p = block.p + r * block.pitch;
    if (first >= last) {
      zero(p, 0, block.columns);
      continue;
    }
    const Vector<A> lowest = all(-std::numeric_limits<A>::infinity());
    Vector<A> tops = lowest;
    sweep_seen<A>(
        first, last, [&](std::int64_t c, auto keep) __attribute__((always_inline)) {
          const Vector<A> x = keep(load<A>(scores + c, lanes<A>) * block.scale, lowest);
          tops = x > tops ? x : tops;
        });
    const A top = std::max(block.top[r], largest(tops));
    if (top > block.top[r]) {
      const A factor = decay(all(block.top[r] - top))[0];
      A* y = block.y + r * block.dim;
      sweep<A>(
          0, block.dim, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
            store<A>(y + c, load<A>(y + c, n) * factor, n);
          });
      block.sum[r] *= factor;
      block.top[r] = top;
    }
    Vector<A> sums{};
    sweep_seen<A>(
        first, last, [&](std::int64_t c, auto keep) __attribute__((always_inline)) {
          const Vector<A> x =
              keep(decay(load<A>(scores + c, lanes<A>) * block.scale - top), all(A(0)));
          sums += x;
          store<A>(p + c, x, lanes<A>);
        });
    block.sum[r] += sum(sums);
    zero_unseen(p, first, last, block.columns);
  }
}

template <class T>
void undo(const typename AttentionRows<T>::Undo& block) {
  using A = Sum<T>;
  const Vector<A> none = all(A(0));
  for (std::int64_t r = 0; r < block.rows; ++r) {
    const std::int64_t first = block.band.first(r, block.columns);
    const std::int64_t last = std::max(first, block.band.last(r, block.columns));
    const A* scores = block.scores + r * block.pitch;
    const A* dp = block.dp + r * block.pitch;
    T* p = block.p + r * block.pitch;
    T* dscores = block.dscores + r * block.pitch;
    sweep_seen<A>(
        first, last, [&](std::int64_t c, auto keep) __attribute__((always_inline)) {
          constexpr int n = lanes<A>;
          const Vector<A> x =
              decay(load<A>(scores + c, n) * block.scale - load<A>(block.lse + c, n));
          const Vector<A> dx = x * (load<A>(dp + c, n) - load<A>(block.delta + c, n)) * block.scale;
          store<A>(p + c, keep(x, none), n);
          store<A>(dscores + c, keep(dx, none), n);
        });
    zero_unseen(p, first, last, block.columns);
    zero_unseen(dscores, first, last, block.columns);
  }
}

template <class T>
void divide(T* y, std::int64_t y_pitch, const Sum<T>* x, const Sum<T>* divisor, std::int64_t rows,
            std::int64_t dim) {
  using A = Sum<T>;
  for (std::int64_t r = 0; r < rows; ++r) {
    const A factor = divisor[r] == 0 ? A(0) : A(1) / divisor[r];
    sweep<A>(
        0, dim, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<A>(y + r * y_pitch + c, load<A>(x + r * dim + c, n) * factor, n);
        });
  }
}

template <class T>
void dots(Sum<T>* sums, const T* a, std::int64_t a_pitch, const T* b, std::int64_t b_pitch,
          std::int64_t rows, std::int64_t dim) {
  using A = Sum<T>;
  for (std::int64_t r = 0; r < rows; ++r) {
    Vector<A> products{};
    sweep<A>(
        0, dim, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          products += load<A>(a + r * a_pitch + c, n) * load<A>(b + r * b_pitch + c, n);
        });
    sums[r] = sum(products);
  }
}

template <class T>
void add(T* y, const Sum<T>* x, std::int64_t count, std::int64_t step, std::int64_t size) {
  using A = Sum<T>;
  sweep<A>(
      0, size, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
        Vector<A> total = load<A>(x + c, n);
        for (std::int64_t i = 1; i < count; ++i) total += load<A>(x + i * step + c, n);
        store<A>(y + c, total, n);
      });
}

}  // namespace

template <class T>
const AttentionRows<T>& attention_rows() {
  static constexpr AttentionRows<T> rows{softmax<T>, undo<T>, divide<T>, dots<T>, add<T>};
  return rows;
}

template const AttentionRows<double>& attention_rows();
template const AttentionRows<float>& attention_rows();
template const AttentionRows<Bf16>& attention_rows();
