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
void rms_norm_backward(const GradientTarget& dx, void* sums, const Tensor& dy, const Tensor& x,
                       const Tensor& scale, const Tensor& w, std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> dxs(dx.tensor), dys(dy), xs(x);
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
            put<A>(to + c, factor * (grad * load<A>(weight + c, n) - value * mean), dx.adds, n);
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
            prefetch_next(from + c, xs.step());
            prefetch_next(from + half + c, xs.step());
            const Vector<A> a = load<A>(from + c, n), b = load<A>(from + half + c, n);
            const Vector<A> co = load<A>(cosine + c, n), si = load<A>(sine + c, n) * sign;
            store<A>(to + c, a * co - b * si, n);
            store<A>(to + half + c, b * co + a * si, n);
          });
    }
  }
}

template <class T>
void sum_rows(const GradientTarget& y, const Tensor& x, const Tensor& place, std::int64_t per,
              std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> ys(y.tensor), xs(x);
  const RowsOf<std::int32_t> places(place);
  const std::int64_t columns = x.columns();
  std::vector<const T*> rows;
  for (std::int64_t t = begin; t < end; ++t) {
    T* to = ys[t];
    const std::int32_t* from = places[t * per];
    rows.clear();
    for (std::int64_t j = 0; j < per; ++j)
      if (from[j] >= 0) rows.push_back(xs[from[j]]);
    sweep<A>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          Vector<A> total{};
          for (const T* row : rows) total += load<A>(row + c, n);
          put<A>(to + c, total, y.adds, n);
        });
  }
}

template <class T>
void layer_norm(const Tensor& y, const Tensor& statistics, const Tensor& x, const Tensor& w,
                const Tensor& b, double eps, std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> ys(y), xs(x);
  const RowsOf<A> kept(statistics);
  const A *weight = w.data<A>(), *bias = b.data<A>();
  const std::int64_t columns = x.columns();
  for (std::int64_t r = begin; r < end; ++r) {
    T* to = ys[r];
    const T* from = xs[r];
    Vector<A> total{}, squares{};
    sweep<A>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          total += load<A>(from + c, n);
        });
    const A mean = sum(total) / A(columns);
    sweep<A>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          const Vector<A> apart = before<A>(n, load<A>(from + c, n) - mean, A(0));
          squares += apart * apart;
        });
    const A factor = A(1) / std::sqrt(sum(squares) / A(columns) + A(eps));
    kept[r][0] = mean;
    kept[r][1] = factor;
    sweep<A>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          const Vector<A> h = (load<A>(from + c, n) - mean) * factor;
          store<A>(to + c, h * load<A>(weight + c, n) + load<A>(bias + c, n), n);
        });
  }
}

// With u = dy w and h = (x - mean) factor: dx = factor (u - mean(u) - h mean(u h)), dw = sum of
// dy h, db = sum of dy.
template <class T>
void layer_norm_backward(const GradientTarget& dx, void* sums, const Tensor& dy, const Tensor& x,
                         const Tensor& statistics, const Tensor& w, std::int64_t begin,
                         std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> dxs(dx.tensor), dys(dy), xs(x);
  const RowsOf<A> kept(statistics);
  const A* weight = w.data<A>();
  const std::int64_t columns = x.columns();
  A* dw = static_cast<A*>(sums);
  A* db = dw == nullptr ? nullptr : dw + columns;
  for (std::int64_t r = begin; r < end; ++r) {
    T* to = dxs[r];
    const T *d = dys[r], *from = xs[r];
    const A mean = kept[r][0], factor = kept[r][1];
    Vector<A> total{}, products{};
    sweep<A>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          const Vector<A> u = load<A>(d + c, n) * load<A>(weight + c, n);
          total += u;
          products += u * (load<A>(from + c, n) - mean);
        });
    const A shift = sum(total) / A(columns), slope = sum(products) * factor / A(columns);
    sweep<A>(
        0, columns, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          const Vector<A> grad = load<A>(d + c, n), h = (load<A>(from + c, n) - mean) * factor;
          if (dw != nullptr) {
            store<A>(dw + c, load<A>(dw + c, n) + grad * h, n);
            store<A>(db + c, load<A>(db + c, n) + grad, n);
          }
          put<A>(to + c, factor * (grad * load<A>(weight + c, n) - shift - h * slope), dx.adds, n);
        });
  }
}

template <class T>
void add_row(const Tensor& y, const Tensor& x, const Tensor& row, std::int64_t begin,
             std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> ys(y), xs(x);
  const A* bias = row.data<A>();
  for (std::int64_t r = begin; r < end; ++r) {
    T* to = ys[r];
    const T* from = xs[r];
    sweep<A>(
        0, y.columns(), [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<A>(to + c, load<A>(from + c, n) + load<A>(bias + c, n), n);
        });
  }
}

// Columns [begin, end): rows are added in order.
template <class T>
void add_row_backward(const GradientTarget& drow, const Tensor& dy, std::int64_t begin,
                      std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> dys(dy);
  A* to = drow.tensor.data<A>();
  if (!drow.adds) std::fill(to + begin, to + end, A(0));
  for (std::int64_t r = 0; r < dy.rows(); ++r) {
    const T* from = dys[r];
    sweep<A>(
        begin, end, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<A>(to + c, load<A>(to + c, n) + load<A>(from + c, n), n);
        });
  }
}

template <class T>
void join_heads(const Tensor& y, const Tensor& a, const Tensor& b, std::int64_t heads,
                std::int64_t begin, std::int64_t end) {
  const RowsOf<T> ys(y), as(a), bs(b);
  const std::int64_t width = y.columns() / heads, first = a.columns() / heads;
  const std::int64_t rest = width - first, step = b.columns() == rest ? 0 : rest;
  for (std::int64_t r = begin; r < end; ++r)
    for (std::int64_t h = 0; h < heads; ++h) {
      T* to = ys[r] + h * width;
      std::copy_n(as[r] + h * first, first, to);
      std::copy_n(bs[r] + h * step, rest, to + first);
    }
}

template <class T>
void join_heads_backward(const Tensor& da, const Tensor& db, const Tensor& dy, std::int64_t heads,
                         std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> das(da), dbs(db), dys(dy);
  const std::int64_t width = dy.columns() / heads, first = da.columns() / heads;
  const std::int64_t rest = width - first, summed = db.columns() == rest ? heads : 1;
  for (std::int64_t r = begin; r < end; ++r) {
    for (std::int64_t h = 0; h < heads; ++h)
      std::copy_n(dys[r] + h * width, first, das[r] + h * first);
    for (std::int64_t h = 0; h < heads; h += summed) {
      const T* from = dys[r] + h * width + first;
      T* to = dbs[r] + (summed == 1 ? h * rest : 0);
      sweep<A>(
          0, rest, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
            Vector<A> total{};
            for (std::int64_t i = 0; i < summed; ++i) total += load<A>(from + i * width + c, n);
            store<A>(to + c, total, n);
          });
    }
  }
}
