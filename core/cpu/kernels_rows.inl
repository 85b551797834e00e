// Kernels of rows: embedding, normalisation, positions, sums of rows. See kernels.h.

template <class T>
void embedding(const Tensor& y, const Tensor& ids, const Tensor& w, std::int64_t first,
               std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> ys(y);
  const RowsOf<A> ws(w);
  const RowsOf<std::int32_t> numbers(ids);
  const std::int64_t columns = y.columns(), here = w.rows();
  for (std::int64_t r = begin; r < end; ++r) {
    const std::int64_t id = *numbers[r] - first;
    if (id < 0 || id >= here) {
      std::memset(static_cast<void*>(ys[r]), 0, std::size_t(columns) * sizeof(T));
      continue;
    }
    T* to = ys[r];
    const A* from = ws[id];
    sweep<A>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<A>(to + c, load<A>(from + c, n), n);
        });
  }
}

template <class T>
void embedding_backward(const Tensor& dw, const Tensor& ids, const Tensor& dy, std::int64_t first,
                        std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<A> dws(dw);
  const RowsOf<T> dys(dy);
  const RowsOf<std::int32_t> numbers(ids);
  const std::int64_t here = dw.rows(), rows = dy.rows();
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t id = *numbers[r] - first;
    if (id < 0 || id >= here) continue;
    A* to = dws[id];
    const T* from = dys[r];
    sweep<A>(
        begin, end, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<A>(to + c, load<A>(to + c, n) + load<A>(from + c, n), n);
        });
  }
}

template <class T>
void rms_norm(const Tensor& y, const Tensor& scale, const Tensor& x, const Tensor& w, double eps,
              std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> ys(y), xs(x);
  const RowsOf<A> scales(scale);
  const A* weight = w.data<A>();
  const std::int64_t columns = w.size(), groups = x.columns() / columns;
  for (std::int64_t r = begin; r < end; ++r)
    for (std::int64_t g = 0; g < groups; ++g) {
      T* to = ys[r] + g * columns;
      const T* from = xs[r] + g * columns;
      Vector<A> squares{};
      sweep<A>(
          0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
            const Vector<A> value = load<A>(from + c, n);
            squares += value * value;
          });
      const A factor = A(1) / std::sqrt(sum(squares) / A(columns) + A(eps));
      scales[r][g] = factor;
      sweep<A>(
          0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
            store<A>(to + c, load<A>(from + c, n) * factor * load<A>(weight + c, n), n);
          });
    }
}

// With u = dy w and h = x scale: dx = scale (u - h mean(u h)), dw = sum of dy h.
template <class T>
void rms_norm_backward(const Tensor& dx, void* sums, const Tensor& dy, const Tensor& x,
                       const Tensor& scale, const Tensor& w, std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> dxs(dx), dys(dy), xs(x);
  const RowsOf<A> scales(scale);
  const A* weight = w.data<A>();
  A* dw = static_cast<A*>(sums);
  const std::int64_t columns = w.size(), groups = x.columns() / columns;
  for (std::int64_t r = begin; r < end; ++r)
    for (std::int64_t g = 0; g < groups; ++g) {
      T* to = dxs[r] + g * columns;
      const T *d = dys[r] + g * columns, *from = xs[r] + g * columns;
      const A factor = scales[r][g];
      Vector<A> total{};
      sweep<A>(
          0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
            total += load<A>(d + c, n) * load<A>(weight + c, n) * load<A>(from + c, n);
          });
      const A mean = sum(total) * factor * factor / A(columns);
      sweep<A>(
          0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
            const Vector<A> grad = load<A>(d + c, n), value = load<A>(from + c, n);
            if (dw != nullptr) store<A>(dw + c, load<A>(dw + c, n) + grad * value * factor, n);
            store<A>(to + c, factor * (grad * load<A>(weight + c, n) - value * mean), n);
          });
    }
}

template <class A>
void add_sums(const GradientTarget& y, const void* sums, std::int64_t count, std::int64_t stride,
              std::int64_t begin, std::int64_t end) {
  A* to = y.tensor.data<A>();
  const A* from = static_cast<const A*>(sums);
  sweep<A>(
      begin, end, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
        Vector<A> total = y.adds ? load<A>(to + c, n) : Vector<A>{};
        for (std::int64_t i = 0; i < count; ++i) total += load<A>(from + i * stride + c, n);
        store<A>(to + c, total, n);
      });
}

template <class T>
void rope(const Tensor& y, const Tensor& x, const Tensor& position, const Tensor& table,
          bool inverse, std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> ys(y), xs(x);
  const RowsOf<A> angles(table);
  const RowsOf<std::int32_t> positions(position);
  const std::int64_t head_dim = table.columns(), half = head_dim / 2, columns = x.columns();
  const A sign = inverse ? A(-1) : A(1);
  for (std::int64_t r = begin; r < end; ++r) {
    const A *cosine = angles[*positions[r]], *sine = cosine + half;
    for (std::int64_t head = 0; head < columns; head += head_dim) {
      T* to = ys[r] + head;
      const T* from = xs[r] + head;
      sweep<A>(
          0, half, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
            const Vector<A> a = load<A>(from + c, n), b = load<A>(from + half + c, n);
            const Vector<A> co = load<A>(cosine + c, n), si = load<A>(sine + c, n) * sign;
            store<A>(to + c, a * co - b * si, n);
            store<A>(to + half + c, b * co + a * si, n);
          });
    }
  }
}

template <class T>
void sum_rows(const Tensor& y, const Tensor& x, const Tensor& place, std::int64_t per,
              std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> ys(y), xs(x);
  const RowsOf<std::int32_t> places(place);
  const std::int64_t columns = y.columns();
  for (std::int64_t t = begin; t < end; ++t) {
    T* to = ys[t];
    const std::int32_t* from = places[t * per];
    sweep<A>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          Vector<A> total{};
          for (std::int64_t j = 0; j < per; ++j) total += load<A>(xs[from[j]] + c, n);
          store<A>(to + c, total, n);
        });
  }
}
