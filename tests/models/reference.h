// The model and its losses once more, in plain loops over f64 and with no code of the library but
// the configuration: what tests compare with.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "models/model.pb.h"

namespace pf::reference {

using Numbers = std::vector<double>;
using Weights = std::map<std::string, Numbers>;  // whole, row-major, by parameter

// What the router of one layer made of one token.
struct Route {
  Numbers scores;           // softmax over all experts
  std::vector<int> chosen;  // ascending
  double lse = 0;
  bool counts = true;  // the token's target does
};
// [sample][position] of one layer.
using Routes = std::vector<std::vector<Route>>;

// sum over i of f_i P_i, times the number of experts: f_i is the share of the choices of `counted`
// that went to expert i, P_i the mean of its scores over `scored`. The tokens that count alone.
inline double balance_of(const std::vector<Route>& scored, const std::vector<Route>& counted) {
  if (scored.empty()) return 0;
  const std::size_t experts = scored[0].scores.size();
  Numbers f(experts), p(experts);
  double choices = 0, tokens = 0, sum = 0;
  for (const Route& r : counted) {
    for (const int e : r.chosen) f[std::size_t(e)] += r.counts;
    choices += r.counts ? double(r.chosen.size()) : 0;
  }
  for (const Route& r : scored) {
    for (std::size_t e = 0; e < experts; ++e) p[e] += r.counts ? r.scores[e] : 0;
    tokens += r.counts;
  }
  for (std::size_t e = 0; e < experts && tokens > 0; ++e) sum += f[e] / choices * p[e] / tokens;
  return double(experts) * sum;
}

inline double tokens_of(const std::vector<Route>& routes) {
  return double(std::ranges::count_if(routes, &Route::counts));
}

// The samples [begin, end) one after the other.
inline std::vector<Route> joined(const Routes& routes, std::size_t begin, std::size_t end) {
  std::vector<Route> all;
  for (std::size_t s = begin; s < std::min(end, routes.size()); ++s)
    all.insert(all.end(), routes[s].begin(), routes[s].end());
  return all;
}

// One layer's balance loss over a global batch of micro-batches of `size` samples, `group` of which
// are counted together, without its weight. Each part is weighted by its share of the tokens.
inline double balance_loss(config::Balance::Kind kind, const Routes& routes, std::size_t size,
                           std::size_t group) {
  using Kind = config::Balance;
  if (kind == Kind::none) return 0;
  if (kind == Kind::mixed)
    return balance_loss(Kind::global, routes, size, group) +
           0.01 * balance_loss(Kind::micro, routes, size, group);
  const double tokens = tokens_of(joined(routes, 0, routes.size()));
  const std::size_t step = kind == Kind::sequence ? 1 : size;
  double loss = 0;
  for (std::size_t s = 0; s < routes.size(); s += step) {
    const std::vector<Route> part = joined(routes, s, s + step);
    const std::size_t end_of_group = (s / size / group + 1) * group * size;
    const std::vector<Route> counted =
        kind == Kind::global ? joined(routes, 0, end_of_group) : part;
    loss += tokens_of(part) / tokens * balance_of(part, counted);
  }
  return loss;
}

// The mean of lse^2 over the tokens that count.
inline double z_loss(const Routes& routes) {
  double sum = 0, tokens = 0;
  for (const Route& r : joined(routes, 0, routes.size())) {
    sum += r.counts ? r.lse * r.lse : 0;
    tokens += r.counts;
  }
  return sum / tokens;
}

// y = w x: w [out, in], from element `begin` on.
inline Numbers product(const Numbers& w, const Numbers& x, std::size_t out, std::size_t begin = 0) {
  Numbers y(out);
  for (std::size_t o = 0; o < out; ++o)
    for (std::size_t i = 0; i < x.size(); ++i) y[o] += w[begin + o * x.size() + i] * x[i];
  return y;
}

inline Numbers rms_norm(const Numbers& x, const Numbers& w, double eps) {
  double mean = 0;
  for (const double v : x) mean += v * v / double(x.size());
  Numbers y = x;
  for (std::size_t i = 0; i < x.size(); ++i) y[i] *= w[i] / std::sqrt(mean + eps);
  return y;
}

inline Numbers swiglu(const Numbers& gate, const Numbers& up) {
  Numbers y = up;
  for (std::size_t i = 0; i < y.size(); ++i) y[i] *= gate[i] / (1 + std::exp(-gate[i]));
  return y;
}

inline void add(Numbers& x, const Numbers& y, double factor = 1) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += factor * y[i];
}

inline double log_sum_exp(const Numbers& x) {
  const double top = *std::ranges::max_element(x);
  double sum = 0;
  for (const double v : x) sum += std::exp(v - top);
  return top + std::log(sum);
}

// Of one head at one position: pairs (c, c + d / 2).
inline void rope(double* x, std::size_t d, std::size_t position, double base) {
  for (std::size_t i = 0; i < d / 2; ++i) {
    const double angle = double(position) * std::pow(base, -2 * double(i) / double(d));
    const double a = x[i], b = x[i + d / 2];
    x[i] = a * std::cos(angle) - b * std::sin(angle);
    x[i + d / 2] = a * std::sin(angle) + b * std::cos(angle);
  }
}

class Model {
 public:
  Model(const config::Model& config, const Weights& weights) : config_(config), w_(weights) {}

  // The sum of the cross entropies of one sequence's valid targets. Adds its routing, by layer.
  double sequence(const std::vector<int>& ids, const std::vector<int>& targets,
                  const std::vector<bool>& mask, std::map<int, Routes>& routes) const;

 private:
  using Rows = std::vector<Numbers>;

  const Numbers& at(const std::string& name) const { return w_.at(name); }
  void attention(Rows& x, const std::string& name) const;
  Numbers mlp(const Numbers& h, const std::string& name, std::size_t ffn) const;
  Numbers experts(const Numbers& h, const std::string& name, Route& route) const;
  Route route(const Numbers& logits, Numbers& weights) const;

  config::Model config_;
  Weights w_;
};

inline void Model::attention(Rows& x, const std::string& name) const {
  const auto d = std::size_t(config_.head_dim()), heads = std::size_t(config_.heads());
  const auto kv_heads = std::size_t(config_.kv_heads());
  Rows q, k, v;
  for (std::size_t t = 0; t < x.size(); ++t) {
    const Numbers h = rms_norm(x[t], at(name + ".norm"), config_.norm_eps());
    q.push_back(product(at(name + ".q"), h, heads * d));
    k.push_back(product(at(name + ".k"), h, kv_heads * d));
    v.push_back(product(at(name + ".v"), h, kv_heads * d));
    for (std::size_t a = 0; a < heads; ++a) rope(&q[t][a * d], d, t, config_.rope_base());
    for (std::size_t a = 0; a < kv_heads; ++a) rope(&k[t][a * d], d, t, config_.rope_base());
  }
  for (std::size_t t = 0; t < x.size(); ++t) {
    Numbers y(heads * d);
    for (std::size_t a = 0; a < heads; ++a) {
      const std::size_t of = a / (heads / kv_heads) * d;
      Numbers scores(t + 1);
      for (std::size_t s = 0; s <= t; ++s)
        for (std::size_t c = 0; c < d; ++c)
          scores[s] += q[t][a * d + c] * k[s][of + c] / std::sqrt(double(d));
      const double lse = log_sum_exp(scores);
      for (std::size_t s = 0; s <= t; ++s)
        for (std::size_t c = 0; c < d; ++c)
          y[a * d + c] += std::exp(scores[s] - lse) * v[s][of + c];
    }
    add(x[t], product(at(name + ".out"), y, x[t].size()));
  }
}

inline Numbers Model::mlp(const Numbers& h, const std::string& name, std::size_t ffn) const {
  return product(at(name + ".down"),
                 swiglu(product(at(name + ".gate"), h, ffn), product(at(name + ".up"), h, ffn)),
                 h.size());
}

inline Route Model::route(const Numbers& logits, Numbers& weights) const {
  Route route;
  route.lse = log_sum_exp(logits);
  for (const double logit : logits) route.scores.push_back(std::exp(logit - route.lse));
  Numbers of_chosen;
  const auto k = std::size_t(config_.moe().top_k());
  for (std::size_t e = 0; e < logits.size(); ++e) {
    std::size_t better = 0;
    for (std::size_t o = 0; o < logits.size(); ++o)
      better += logits[o] > logits[e] || (logits[o] == logits[e] && o < e);
    if (better >= k) continue;
    route.chosen.push_back(int(e));
    weights.push_back(route.scores[e]);
    of_chosen.push_back(logits[e]);
  }
  if (config_.moe().router() == config::Moe::top_k_softmax)
    for (std::size_t j = 0; j < k; ++j)
      weights[j] = std::exp(of_chosen[j] - log_sum_exp(of_chosen));
  return route;
}

inline Numbers Model::experts(const Numbers& h, const std::string& name, Route& made) const {
  const auto ffn = std::size_t(config_.moe().ffn());
  Numbers weights, y(h.size());
  made = route(product(at(name + ".router"), h, std::size_t(config_.moe().experts())), weights);
  for (std::size_t j = 0; j < weights.size(); ++j) {
    const std::size_t begin = std::size_t(made.chosen[j]) * ffn * h.size();
    const Numbers inner = swiglu(product(at(name + ".experts.gate"), h, ffn, begin),
                                 product(at(name + ".experts.up"), h, ffn, begin));
    add(y, product(at(name + ".experts.down"), inner, h.size(), begin), weights[j]);
  }
  if (config_.moe().shared_ffn() > 0)
    add(y, mlp(h, name + ".shared", std::size_t(config_.moe().shared_ffn())));
  return y;
}

inline double Model::sequence(const std::vector<int>& ids, const std::vector<int>& targets,
                              const std::vector<bool>& mask, std::map<int, Routes>& routes) const {
  const auto hidden = std::size_t(config_.hidden());
  Rows x;
  for (const int id : ids) {
    const auto row = at("embedding").begin() + id * config_.hidden();
    x.emplace_back(row, row + config_.hidden());
  }
  for (int layer = 0; layer < int(config_.layers()); ++layer) {
    const std::string name = "layers." + std::to_string(layer);
    attention(x, name + ".attention");
    const bool is_moe = config_.has_moe() && (layer + 1) % config_.moe().every() == 0;
    if (is_moe) routes[layer].emplace_back(x.size());
    for (std::size_t t = 0; t < x.size(); ++t) {
      const std::string part = name + (is_moe ? ".moe" : ".mlp");
      const Numbers h = rms_norm(x[t], at(part + ".norm"), config_.norm_eps());
      if (!is_moe) {
        add(x[t], mlp(h, part, std::size_t(config_.ffn())));
        continue;
      }
      Route& route = routes[layer].back()[t];
      add(x[t], experts(h, part, route));
      route.counts = mask[t];
    }
  }
  double loss = 0;
  for (std::size_t t = 0; t < x.size(); ++t) {
    if (!mask[t]) continue;
    const Numbers h = rms_norm(x[t], at("head.norm"), config_.norm_eps());
    const Numbers logits = product(at("head"), h, at("head").size() / hidden);
    loss += log_sum_exp(logits) - logits[std::size_t(targets[t])];
  }
  return loss;
}

}  // namespace pf::reference
