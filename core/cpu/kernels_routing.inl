// Kernels of the router and of statistics by segment. See kernels.h.

// Integers in the order of the numbers; -0 equals 0, and none is the smallest integer.
template <class A>
[[gnu::always_inline]] inline Vector<Bits<A>> order_of(Vector<A> x) {
  using Keys = Vector<Bits<A>>;
  constexpr auto top = std::numeric_limits<Bits<A>>::max();
  const auto bits = (Keys)(x + A(0));
  const Keys keys = bits ^ ((bits >> (sizeof(A) * 8 - 1)) & top);
  return keys < -top ? Keys{} - top : keys;
}

// How many keys are at least `bound`. keys [experts, rounded up to whole vectors].
template <class Key>
[[gnu::always_inline]] inline std::int64_t count_from(const Key* keys, std::int64_t experts,
                                                      Key bound) {
  Vector<Key> count{};
  for (std::int64_t e = 0; e < experts; e += lanes<Key>)
    count -= load<Key>(keys + e, lanes<Key>) >= bound;
  return sum(count);
}

// The k largest of the logits, ascending in number: bisects for a bound that k keys reach. Where
// equal keys leave no such bound, it ends at the k-th largest.
template <class A>
void choose(std::int32_t* chosen, std::int64_t k, const A* logits, std::int64_t experts,
            Bits<A>* keys) {
  using Key = Bits<A>;
  constexpr Key none = std::numeric_limits<Key>::min();
  sweep<A>(
      0, experts, [&](std::int64_t e, std::int64_t n) __attribute__((always_inline)) {
        store<Key>(keys + e, before<Key>(n, order_of<A>(load<A>(logits + e, n)), none), lanes<Key>);
      });
  Key low = none + 1, high = std::numeric_limits<Key>::max();
  while (low < high) {
    const Key middle = std::midpoint(high, low);
    const std::int64_t count = count_from(keys, experts, middle);
    (count < k ? high : low) = count < k ? middle - 1 : middle;
    if (count == k) break;
  }
  const bool is_top = low == std::numeric_limits<Key>::max();
  std::int64_t ties = k - (is_top ? 0 : count_from<Key>(keys, experts, low + 1));
  for (std::int64_t e = 0, j = 0; j < k; ++e) {
    const bool is_tie = keys[e] == low && ties > 0;
    ties -= is_tie;
    chosen[j] = std::int32_t(e);
    j += keys[e] > low || is_tie;
  }
}

// y = softmax(x), of which the log of the sum is returned.
template <class A>
A softmax(A* y, const A* x, std::int64_t size) {
  constexpr A lowest = -std::numeric_limits<A>::infinity();
  Vector<A> tops = all(lowest), total{};
  sweep<A>(
      0, size, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
        const Vector<A> value = before<A>(n, load<A>(x + c, n), lowest);
        tops = value > tops ? value : tops;
      });
  const A top = largest(tops);
  sweep<A>(
      0, size, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
        const Vector<A> value = exponential(load<A>(x + c, n) - top);
        total += before<A>(n, value, A(0));
        store<A>(y + c, value, n);
      });
  const A all_of_it = sum(total);
  sweep<A>(
      0, size, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
        store<A>(y + c, load<A>(y + c, n) / all_of_it, n);
      });
  return top + std::log(all_of_it);
}

template <class A>
void route(const Tensor& scores, const Tensor& weights, const Tensor& lse, const Tensor& chosen,
           const Tensor& logits, RouterKind kind, bool is_chosen, std::int64_t begin,
           std::int64_t end) {
  const RowsOf<A> all_scores(scores), all_weights(weights), sums(lse), all_logits(logits);
  const RowsOf<std::int32_t> choices(chosen);
  const std::int64_t experts = logits.columns(), k = chosen.columns();
  std::vector<Bits<A>> keys(std::size_t(experts + lanes<A>));
  for (std::int64_t r = begin; r < end; ++r) {
    const A* from = all_logits[r];
    std::int32_t* choice = choices[r];
    *sums[r] = softmax(all_scores[r], from, experts);
    if (!is_chosen) choose(choice, k, from, experts, keys.data());
    const A* picked = kind == RouterKind::softmax_top_k ? all_scores[r] : from;
    A* weight = all_weights[r];
    for (std::int64_t j = 0; j < k; ++j) weight[j] = picked[choice[j]];
    if (kind == RouterKind::top_k_softmax) softmax(weight, weight, k);
  }
}

template <class A>
void route_backward(const Tensor& dlogits, const Tensor& dscores, const Tensor& dweights,
                    const Tensor& dlse, const Tensor& scores, const Tensor& weights,
                    const Tensor& chosen, RouterKind kind, std::int64_t begin, std::int64_t end) {
  const RowsOf<A> to(dlogits), ds(dscores), dw(dweights), dl(dlse), all_scores(scores), w(weights);
  const RowsOf<std::int32_t> choices(chosen);
  const std::int64_t experts = dlogits.columns(), k = chosen.columns();
  for (std::int64_t r = begin; r < end; ++r) {
    A* d = to[r];
    const A* s = all_scores[r];
    const std::int32_t* choice = choices[r];
    // Through the softmax over all experts.
    Vector<A> products{};
    if (ds)
      sweep<A>(
          0, experts, [&](std::int64_t e, std::int64_t n) __attribute__((always_inline)) {
            products += load<A>(s + e, n) * load<A>(ds[r] + e, n);
          });
    A mean = sum(products), chosen_mean = 0;
    for (std::int64_t j = 0; dw && j < k; ++j) {
      mean += kind == RouterKind::softmax_top_k ? s[choice[j]] * dw[r][j] : A(0);
      chosen_mean += w[r][j] * dw[r][j];
    }
    const A shift = (dl ? *dl[r] : A(0)) - mean;
    sweep<A>(
        0, experts, [&](std::int64_t e, std::int64_t n) __attribute__((always_inline)) {
          const Vector<A> grad = ds ? load<A>(ds[r] + e, n) : Vector<A>{};
          store<A>(d + e, load<A>(s + e, n) * (grad + shift), n);
        });
    for (std::int64_t j = 0; dw && j < k; ++j)
      d[choice[j]] += kind == RouterKind::softmax_top_k ? s[choice[j]] * dw[r][j]
                                                        : w[r][j] * (dw[r][j] - chosen_mean);
  }
}

template <class T>
void segment_sum(const Tensor& y, const Tensor& x, const Tensor& mask, const Tensor& segment,
                 std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<A> ys(y), masks(mask);
  const RowsOf<T> xs(x);
  const RowsOf<std::int32_t> segments(segment);
  for (std::int64_t s = 0; s < y.rows(); ++s)
    sweep<A>(
        begin, end, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<A>(ys[s] + c, Vector<A>{}, n);
        });
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    A* to = ys[segments ? *segments[r] : 0];
    const T* from = xs[r];
    const A weight = *masks[r];
    sweep<A>(
        begin, end, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<A>(to + c, load<A>(to + c, n) + load<A>(from + c, n) * weight, n);
        });
  }
}

template <class T>
void segment_sum_backward(const Tensor& dx, const Tensor& dy, const Tensor& mask,
                          const Tensor& segment, std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<A> dys(dy), masks(mask);
  const RowsOf<T> dxs(dx);
  const RowsOf<std::int32_t> segments(segment);
  for (std::int64_t r = begin; r < end; ++r) {
    T* to = dxs[r];
    const A* from = dys[segments ? *segments[r] : 0];
    const A weight = *masks[r];
    sweep<A>(
        0, dx.columns(), [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<A>(to + c, load<A>(from + c, n) * weight, n);
        });
  }
}

template <class T>
void normalise_rows(const Tensor& y, const Tensor& x, std::int64_t begin, std::int64_t end) {
  using A = Sum<T>;
  const RowsOf<T> ys(y), xs(x);
  for (std::int64_t r = begin; r < end; ++r) {
    T* to = ys[r];
    const T* from = xs[r];
    Vector<A> total{};
    sweep<A>(
        0, x.columns(), [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          total += load<A>(from + c, n);
        });
    const A divisor = sum(total) == A(0) ? A(1) : sum(total);
    sweep<A>(
        0, x.columns(), [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store<A>(to + c, load<A>(from + c, n) / divisor, n);
        });
  }
}
