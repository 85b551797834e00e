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

// y = 1 / (1 + e^-x).
template <class A>
void sigmoid(A* y, const A* x, std::int64_t size) {
  sweep<A>(
      0, size, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
        store<A>(y + c, A(1) / (A(1) + exponential(-load<A>(x + c, n))), n);
      });
}

template <class A>
A sum_of(const A* x, std::int64_t size) {
  Vector<A> total{};
  sweep<A>(
      0, size, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
        total += load<A>(x + c, n);
      });
  return sum(total);
}

// Makes the experts of all but the best groups ineligible.
template <class A>
void limit_groups(A* values, std::int64_t experts, const Router& router, std::vector<A>& work) {
  const std::int64_t size = experts / router.groups;
  std::vector<std::pair<A, std::int64_t>> worth;
  for (std::int64_t g = 0; g < router.groups; ++g) {
    work.assign(values + g * size, values + (g + 1) * size);
    std::partial_sort(work.begin(), work.begin() + router.group_best, work.end(), std::greater());
    // Ties: the lower group.
    worth.emplace_back(-std::accumulate(work.begin(), work.begin() + router.group_best, A(0)), g);
  }
  std::sort(worth.begin(), worth.end());
  for (std::int64_t i = router.top_groups; i < router.groups; ++i)
    std::fill_n(values + worth[std::size_t(i)].second * size, size,
                -std::numeric_limits<A>::infinity());
}

template <class A>
void route(const Tensor& scores, const Tensor& weights, const Tensor& lse, const Tensor& chosen,
           const Tensor& logits, const Router& router, bool is_chosen, std::int64_t begin,
           std::int64_t end) {
  const RowsOf<A> all_scores(scores), all_weights(weights), sums(lse), all_logits(logits);
  const RowsOf<std::int32_t> choices(chosen);
  const bool is_sigmoid = router.kind == RouterKind::sigmoid_top_k;
  const bool is_limited = router.top_groups < router.groups;
  const std::int64_t experts = logits.columns(), k = chosen.columns();
  const A* bias = router.bias ? router.bias.data<A>() : nullptr;
  std::vector<Bits<A>> keys(std::size_t(experts + lanes<A>));
  std::vector<A> values(std::size_t(experts), A(0)), sigmoids(values), work;
  for (std::int64_t r = begin; r < end; ++r) {
    const A* from = all_logits[r];
    A* score = all_scores[r];
    std::int32_t* choice = choices[r];
    *sums[r] = softmax(score, from, experts);
    if (is_sigmoid) {
      sigmoid(sigmoids.data(), from, experts);
      const A total = sum_of(sigmoids.data(), experts);
      for (std::int64_t e = 0; e < experts; ++e) score[e] = sigmoids[std::size_t(e)] / total;
    }
    if (!is_chosen) {
      const A* by = from;  // as the scores: both are monotonous
      if (bias != nullptr || is_limited) {
        const A* plain = is_sigmoid ? sigmoids.data() : score;
        for (std::int64_t e = 0; e < experts; ++e)
          values[std::size_t(e)] = plain[e] + (bias != nullptr ? bias[e] : A(0));
        if (is_limited) limit_groups(values.data(), experts, router, work);
        by = values.data();
      }
      choose(choice, k, by, experts, keys.data());
    }
    const A* picked = is_sigmoid                                 ? sigmoids.data()
                      : router.kind == RouterKind::softmax_top_k ? score
                                                                 : from;
    A* weight = all_weights[r];
    for (std::int64_t j = 0; j < k; ++j) weight[j] = picked[choice[j]];
    if (router.kind == RouterKind::top_k_softmax) softmax(weight, weight, k);
    A factor = A(router.scale);
    if (is_sigmoid && k > 1) factor /= std::accumulate(weight, weight + k, A(0));
    for (std::int64_t j = 0; j < k; ++j) weight[j] *= factor;
  }
}

// With s the sigmoids, S their sum and C that of the chosen: scores s / S, weights s / C (or s).
template <class A>
void route_sigmoid_backward(A* d, const A* dscores, const A* dweights, A dlse, const A* logits,
                            const A* weights, const std::int32_t* choice, std::int64_t experts,
                            std::int64_t k, double scale, A* s, A* soft) {
  sigmoid(s, logits, experts);
  softmax(soft, logits, experts);
  const A total = sum_of(s, experts);
  A mean = 0, chosen = 0, chosen_mean = 0;
  for (std::int64_t e = 0; dscores != nullptr && e < experts; ++e)
    mean += s[e] / total * dscores[e];
  for (std::int64_t e = 0; e < experts; ++e)
    d[e] = (dscores != nullptr ? (dscores[e] - mean) / total : A(0)) * s[e] * (A(1) - s[e]) +
           dlse * soft[e];
  for (std::int64_t j = 0; dweights != nullptr && j < k; ++j) {
    chosen += s[choice[j]];
    chosen_mean += weights[j] * dweights[j];  // scale included
  }
  for (std::int64_t j = 0; dweights != nullptr && j < k; ++j) {
    const A own = s[choice[j]];
    const A grad = k > 1 ? (A(scale) * dweights[j] - chosen_mean) / chosen : A(scale) * dweights[j];
    d[choice[j]] += grad * own * (A(1) - own);
  }
}

template <class A>
void route_backward(const Tensor& dlogits, const Tensor& dscores, const Tensor& dweights,
                    const Tensor& dlse, const Tensor& scores, const Tensor& weights,
                    const Tensor& chosen, const Tensor& logits, const Router& router,
                    std::int64_t begin, std::int64_t end) {
  const RowsOf<A> to(dlogits), ds(dscores), dw(dweights), dl(dlse), all_scores(scores), w(weights);
  const RowsOf<std::int32_t> choices(chosen);
  const std::int64_t experts = dlogits.columns(), k = chosen.columns();
  const bool is_softmax = router.kind == RouterKind::softmax_top_k;
  if (router.kind == RouterKind::sigmoid_top_k) {
    const RowsOf<A> from(logits);
    std::vector<A> s(std::size_t(experts), A(0)), soft(s);
    for (std::int64_t r = begin; r < end; ++r)
      route_sigmoid_backward<A>(to[r], ds ? ds[r] : nullptr, dw ? dw[r] : nullptr,
                                dl ? *dl[r] : A(0), from[r], w[r], choices[r], experts, k,
                                router.scale, s.data(), soft.data());
    return;
  }
  const A scale = A(router.scale);
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
      mean += is_softmax ? s[choice[j]] * scale * dw[r][j] : A(0);
      chosen_mean += w[r][j] * dw[r][j];
    }
    const A shift = (dl ? *dl[r] : A(0)) - mean;
    sweep<A>(
        0, experts, [&](std::int64_t e, std::int64_t n) __attribute__((always_inline)) {
          const Vector<A> grad = ds ? load<A>(ds[r] + e, n) : Vector<A>{};
          store<A>(d + e, load<A>(s + e, n) * (grad + shift), n);
        });
    // Scaled weights: w = scale p, so dp = scale dw, and p's mean of it is chosen_mean.
    for (std::int64_t j = 0; dw && j < k; ++j)
      d[choice[j]] += is_softmax ? s[choice[j]] * scale * dw[r][j]
                                 : w[r][j] / scale * (scale * dw[r][j] - chosen_mean);
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
