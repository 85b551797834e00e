// See attention_rows.h. Included as core/cpu/kernels.inl is.

namespace {

#include "core/cpu/vector.inl"

template <class T>
void zero(T* to, std::int64_t begin, std::int64_t end) {
  if (begin < end)
    std::memset(static_cast<void*>(to + begin), 0, std::size_t(end - begin) * sizeof(T));
}

template <class T>
void softmax(const typename AttentionRows<T>::Softmax& block) {
  using A = Sum<T>;
  for (std::int64_t r = 0; r < block.rows; ++r) {
    const std::int64_t first = block.band.first(r, block.columns);
    const std::int64_t last = std::max(first, block.band.last(r, block.columns));
    const A* scores = block.scores + r * block.pitch;
    T* p = block.p + r * block.pitch;
    if (first == last) {
      zero(p, 0, block.columns);
      continue;
    }
    constexpr A lowest = -std::numeric_limits<A>::infinity();
    Vector<A> tops = all(lowest);
    sweep<A>(
        first, last, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          const Vector<A> x = before<A>(n, load<A>(scores + c, n) * block.scale, lowest);
          tops = x > tops ? x : tops;
        });
    const A top = std::max(block.top[r], largest(tops));
    if (top > block.top[r]) {
      const A factor = exponential(all(block.top[r] - top))[0];
      A* y = block.y + r * block.dim;
      sweep<A>(
          0, block.dim, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
            store<A>(y + c, load<A>(y + c, n) * factor, n);
          });
      block.sum[r] *= factor;
      block.top[r] = top;
    }
    Vector<A> sums{};
    sweep<A>(
        first, last, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          const Vector<A> x = exponential(load<A>(scores + c, n) * block.scale - top);
          sums += before<A>(n, x, A(0));
          store<A>(p + c, x, n);
        });
    block.sum[r] += sum(sums);
    zero(p, 0, first);
    zero(p, last, block.columns);
  }
}

template <class T>
void undo(const typename AttentionRows<T>::Undo& block) {
  using A = Sum<T>;
  for (std::int64_t r = 0; r < block.rows; ++r) {
    const std::int64_t first = block.band.first(r, block.columns);
    const std::int64_t last = std::max(first, block.band.last(r, block.columns));
    const A* scores = block.scores + r * block.pitch;
    const A* dp = block.dp + r * block.pitch;
    T* p = block.p + r * block.pitch;
    T* dscores = block.dscores + r * block.pitch;
    sweep<A>(
        first, last, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          const Vector<A> x =
              exponential(load<A>(scores + c, n) * block.scale - load<A>(block.lse + c, n));
          const Vector<A> dx = x * (load<A>(dp + c, n) - load<A>(block.delta + c, n)) * block.scale;
          store<A>(p + c, x, n);
          store<A>(dscores + c, dx, n);
        });
    zero(p, 0, first);
    zero(p, last, block.columns);
    zero(dscores, 0, first);
    zero(dscores, last, block.columns);
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
