// Elementwise kernels. See kernels.h.

// Elements that stay in the first cache.
constexpr std::int64_t block = 2048;

// y = the sum of xs, and then f(its elements, count), for each block of it.
template <class T, class F>
void each_sum(const Tensor& y, std::span<const Tensor> xs, std::int64_t begin, std::int64_t end,
              F f) {
  using A = Sum<T>;
  Runs runs(y);
  for (const Tensor& x : xs) runs.join(x);
  std::vector<const T*> from(xs.size());
  runs(begin, end, [&](std::int64_t row, std::int64_t column, std::int64_t count) {
    for (std::int64_t done = 0; done < count; done += block) {
      const std::int64_t part = std::min(block, count - done);
      T* to = at<T>(y, row, column + done);
      for (std::size_t i = 0; i < xs.size(); ++i) from[i] = at<T>(xs[i], row, column + done);
      sweep<A>(
          0, part, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
            Vector<A> total = load<A>(from[0] + c, n);
            for (std::size_t i = 1; i < from.size(); ++i) total += load<A>(from[i] + c, n);
            store<A>(to + c, total, n);
          });
      f(to, part);
    }
  });
}

template <class T>
void add(const Tensor& y, std::span<const Tensor> xs, std::int64_t begin, std::int64_t end) {
  each_sum<T>(y, xs, begin, end, [](const T*, std::int64_t) {});
}

template <class T>
double reduce(const Tensor& y, std::span<const Tensor> xs, std::int64_t begin, std::int64_t end) {
  Vector<double> squares{};
  each_sum<T>(y, xs, begin, end, [&](const T* of, std::int64_t count) {
    Vector<double> of_block{};  // in a register
    sweep<double>(
        0, count, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          const Vector<double> value = load<double>(of + c, n);
          of_block += value * value;
        });
    squares += of_block;
  });
  return sum(squares);
}

template <class To, class From>
void cast(const Tensor& y, const Tensor& x, std::int64_t begin, std::int64_t end) {
  using A = std::conditional_t<sizeof(To) == 8 || sizeof(From) == 8, double, float>;
  Runs(y, x)(begin, end, [&](std::int64_t row, std::int64_t column, std::int64_t count) {
    To* to = at<To>(y, row, column);
    const From* from = at<From>(x, row, column);
    sweep<A>(
        0, count, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<A>(to + c, load<A>(from + c, n), n);
        });
  });
}

template <class T>
void copy(const Tensor& y, const Tensor& x, std::int64_t begin, std::int64_t end) {
  switch (x.dtype()) {
    case DType::f64:
      return cast<T, double>(y, x, begin, end);
    case DType::f32:
      return cast<T, float>(y, x, begin, end);
    default:
      return cast<T, Bf16>(y, x, begin, end);
  }
}

template <class T>
void scale(const Tensor& y, const Tensor& x, double factor, std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  Runs(y, x)(begin, end, [&](std::int64_t row, std::int64_t column, std::int64_t count) {
    T* to = at<T>(y, row, column);
    const T* from = at<T>(x, row, column);
    sweep<A>(
        0, count, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<A>(to + c, load<A>(from + c, n) * A(factor), n);
        });
  });
}

template <class T>
double dot(const Tensor& a, const Tensor& b, std::int64_t begin, std::int64_t end) {
  Vector<double> total{};
  Runs(a, b)(begin, end, [&](std::int64_t row, std::int64_t column, std::int64_t count) {
    const T* left = at<T>(a, row, column);
    const T* right = at<T>(b, row, column);
    sweep<double>(
        0, count, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          total += load<double>(left + c, n) * load<double>(right + c, n);
        });
  });
  return sum(total);
}

// silu(g) = g s with s = 1 / (1 + e^-g).
template <class T>
void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up, const Tensor& row,
            std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> ys(y), gates(gate), ups(up);
  const RowsOf<A> weights(row);
  const std::int64_t columns = y.columns();
  for (std::int64_t r = begin; r < end; ++r) {
    T* to = ys[r];
    const T *g = gates[r], *u = ups[r];
    const A weight = weights ? *weights[r] : A(1);
    sweep<A>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          prefetch_next(g + c, gates.step());
          prefetch_next(u + c, ups.step());
          const Vector<A> x = load<A>(g + c, n);
          const Vector<A> silu = x * (A(1) / (A(1) + exponential(-x)));
          store<A>(to + c, silu * load<A>(u + c, n) * weight, n);
        });
  }
}

template <class T>
void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& drow, const Tensor& y,
                     const Tensor& dy, const Tensor& gate, const Tensor& up, const Tensor& row,
                     std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> dgates(dgate), dups(dup), ys(y), dys(dy), gates(gate), ups(up);
  const RowsOf<A> weights(row), drows(drow);
  const std::int64_t columns = dy.columns();
  for (std::int64_t r = begin; r < end; ++r) {
    T *dg = dgates[r], *du = dups[r], *to = ys ? ys[r] : nullptr;
    const T *d = dys[r], *g = gates[r], *u = ups[r];
    const A weight = weights ? *weights[r] : A(1);
    Vector<A> total{};
    sweep<A>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          prefetch_next(g + c, gates.step());
          prefetch_next(u + c, ups.step());
          prefetch_next(d + c, dys.step());
          const Vector<A> x = load<A>(g + c, n), v = load<A>(u + c, n), grad = load<A>(d + c, n);
          const Vector<A> s = A(1) / (A(1) + exponential(-x));
          const Vector<A> silu = x * s;
          total += grad * silu * v;
          store<A>(dg + c, grad * weight * v * (s + silu * (A(1) - s)), n);
          store<A>(du + c, grad * weight * silu, n);
          if (to != nullptr) store<A>(to + c, silu * v * weight, n);
        });
    if (drows) *drows[r] = sum(total);
  }
}

// f(x) and its slope. The tanh of GELU's approximation is taken as a sigmoid:
// (1 + tanh u) / 2 = 1 / (1 + e^-2u).
template <class A, ActivationKind kind>
[[gnu::always_inline]] inline std::pair<Vector<A>, Vector<A>> activated(Vector<A> x) {
  if constexpr (kind == ActivationKind::relu) {
    const auto is_on = x > A(0);
    return {is_on ? x : Vector<A>{}, is_on ? all(A(1)) : Vector<A>{}};
  } else if constexpr (kind == ActivationKind::sigmoid) {
    const Vector<A> s = A(1) / (A(1) + exponential(-x));
    return {s, s * (A(1) - s)};
  } else if constexpr (kind == ActivationKind::gelu_tanh) {
    const A factor = A(2 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi), cubic = A(0.044715);
    const Vector<A> square = x * x;
    const Vector<A> s = A(1) / (A(1) + exponential(-x * (square * cubic + A(1)) * factor));
    return {x * s, s + x * s * (A(1) - s) * (square * (3 * cubic) + A(1)) * factor};
  } else {
    const A root = A(1 / std::numbers::sqrt2);
    const A density = A(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
    const Vector<A> phi = (error_function(x * root) + A(1)) * A(0.5);
    return {x * phi, phi + x * exponential(-x * x * A(0.5)) * density};
  }
}

template <class T, ActivationKind kind>
void activation_of(const Tensor& y, const Tensor& x, std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  Runs(y, x)(begin, end, [&](std::int64_t row, std::int64_t column, std::int64_t count) {
    T* to = at<T>(y, row, column);
    const T* from = at<T>(x, row, column);
    sweep<A>(
        0, count, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<A>(to + c, activated<A, kind>(load<A>(from + c, n)).first, n);
        });
  });
}

template <class T, ActivationKind kind>
void activation_backward_of(const Tensor& dx, const Tensor& dy, const Tensor& x, std::int64_t begin,
                            std::int64_t end) {
  using A = Sum<T>;
  Runs(dx, dy, x)(begin, end, [&](std::int64_t row, std::int64_t column, std::int64_t count) {
    T* to = at<T>(dx, row, column);
    const T *grad = at<T>(dy, row, column), *from = at<T>(x, row, column);
    sweep<A>(
        0, count, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          const Vector<A> slope = activated<A, kind>(load<A>(from + c, n)).second;
          store<A>(to + c, load<A>(grad + c, n) * slope, n);
        });
  });
}

template <class T>
void activation(const Tensor& y, const Tensor& x, ActivationKind kind, std::int64_t begin,
                std::int64_t end) {
  switch (kind) {
    case ActivationKind::gelu:
      return activation_of<T, ActivationKind::gelu>(y, x, begin, end);
    case ActivationKind::gelu_tanh:
      return activation_of<T, ActivationKind::gelu_tanh>(y, x, begin, end);
    case ActivationKind::relu:
      return activation_of<T, ActivationKind::relu>(y, x, begin, end);
    case ActivationKind::sigmoid:
      return activation_of<T, ActivationKind::sigmoid>(y, x, begin, end);
  }
}

template <class T>
void activation_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, ActivationKind kind,
                         std::int64_t begin, std::int64_t end) {
  switch (kind) {
    case ActivationKind::gelu:
      return activation_backward_of<T, ActivationKind::gelu>(dx, dy, x, begin, end);
    case ActivationKind::gelu_tanh:
      return activation_backward_of<T, ActivationKind::gelu_tanh>(dx, dy, x, begin, end);
    case ActivationKind::relu:
      return activation_backward_of<T, ActivationKind::relu>(dx, dy, x, begin, end);
    case ActivationKind::sigmoid:
      return activation_backward_of<T, ActivationKind::sigmoid>(dx, dy, x, begin, end);
  }
}
