// Kernels of losses. See kernels.h.

template <class T>
void row_max(const Tensor& top, const Tensor& logits, std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  constexpr A lowest = -std::numeric_limits<A>::infinity();
  const RowsOf<A> tops(top);
  const RowsOf<T> xs(logits);
  for (std::int64_t r = begin; r < end; ++r) {
    const T* from = xs[r];
    Vector<A> best = all(lowest);
    sweep<A>(
        0, logits.columns(), [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          const Vector<A> value = before<A>(n, load<A>(from + c, n), lowest);
          best = value > best ? value : best;
        });
    *tops[r] = largest(best);
  }
}

template <class T>
void loss_parts(const Tensor& exp_sum, const Tensor& picked, const Tensor& logits,
                const Tensor& top, const Tensor& target, std::int64_t first, std::int64_t begin,
                std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<A> sums(exp_sum), picks(picked), tops(top);
  const RowsOf<T> xs(logits);
  const RowsOf<std::int32_t> targets(target);
  const std::int64_t columns = logits.columns();
  for (std::int64_t r = begin; r < end; ++r) {
    const T* from = xs[r];
    const A shift = *tops[r];
    Vector<A> total{};
    sweep<A>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          total += before<A>(n, exponential(load<A>(from + c, n) - shift), A(0));
        });
    *sums[r] = sum(total);
    const std::int64_t column = *targets[r] - first;
    *picks[r] = column >= 0 && column < columns ? A(from[column]) : A(0);
  }
}

template <class T>
void loss_parts_backward(const Tensor& dlogits, const Tensor& dexp_sum, const Tensor& dpicked,
                         const Tensor& logits, const Tensor& top, const Tensor& target,
                         std::int64_t first, std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<A> dsums(dexp_sum), dpicks(dpicked), tops(top);
  const RowsOf<T> dxs(dlogits), xs(logits);
  const RowsOf<std::int32_t> targets(target);
  const std::int64_t columns = logits.columns();
  for (std::int64_t r = begin; r < end; ++r) {
    T* to = dxs[r];
    const T* from = xs[r];
    const A shift = *tops[r], factor = *dsums[r];
    const std::int64_t column = *targets[r] - first;
    const bool is_here = column >= 0 && column < columns;
    const A at_target =
        is_here ? factor * exponential(all(A(from[column]) - shift))[0] + *dpicks[r] : A(0);
    sweep<A>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<A>(to + c, exponential(load<A>(from + c, n) - shift) * factor, n);
        });
    if (is_here) to[column] = T(at_target);
  }
}

// Rows without weight may hold anything.
template <class A>
double cross_entropy(const Tensor& exp_sum, const Tensor& picked, const Tensor& top,
                     const Tensor& mask, std::int64_t begin, std::int64_t end) {
  const RowsOf<A> sums(exp_sum), picks(picked), tops(top), masks(mask);
  double total = 0;
  for (std::int64_t r = begin; r < end; ++r)
    if (*masks[r] != A(0))
      total +=
          double(*masks[r]) * (std::log(double(*sums[r])) + double(*tops[r]) - double(*picks[r]));
  return total;
}

template <class A>
void cross_entropy_backward(const Tensor& dexp_sum, const Tensor& dpicked, double factor,
                            const Tensor& exp_sum, const Tensor& mask, std::int64_t begin,
                            std::int64_t end) {
  const RowsOf<A> dsums(dexp_sum), dpicks(dpicked), sums(exp_sum), masks(mask);
  for (std::int64_t r = begin; r < end; ++r) {
    const double weight = factor * double(*masks[r]);
    *dsums[r] = *masks[r] == A(0) ? A(0) : A(weight / double(*sums[r]));
    *dpicks[r] = A(-weight);
  }
}

// mask has a value for each row of x, or for each element of a one-dim x.
template <class T>
double square_sum(const Tensor& x, const Tensor& mask, std::int64_t begin, std::int64_t end) {
  const RowsOf<T> xs(x);
  const RowsOf<Sum<T>> masks(mask);
  const std::int64_t columns = x.shape().dims() == 1 ? 1 : x.columns();
  double total = 0;
  for (std::int64_t r = begin; r < end; ++r) {
    const T* from = xs[r];
    Vector<double> squares{};
    sweep<double>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          const Vector<double> value = load<double>(from + c, n);
          squares += value * value;
        });
    total += double(*masks[r]) * sum(squares);
  }
  return total;
}

template <class T>
void square_sum_backward(const Tensor& dx, double factor, const Tensor& x, const Tensor& mask,
                         std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> dxs(dx), xs(x);
  const RowsOf<A> masks(mask);
  const std::int64_t columns = x.shape().dims() == 1 ? 1 : x.columns();
  for (std::int64_t r = begin; r < end; ++r) {
    T* to = dxs[r];
    const T* from = xs[r];
    const A weight = A(2 * factor * double(*masks[r]));
    sweep<A>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<A>(to + c, load<A>(from + c, n) * weight, n);
        });
  }
}
