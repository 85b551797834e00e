#include "parallel/dispatch.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace pf {
namespace {

using Counts = std::vector<std::int64_t>;

// Rows of each expert on each rank of etp x ep.
class Census {
 public:
  Census(const Plan& plan, const Mesh& mesh)
      : etp_(mesh.size(axes::etp)), ep_(mesh.size(axes::ep)), experts_(plan.counts.size()) {
    const Tensor all = all_gather(cross(plan.counts, mesh), mesh, axes::etp * axes::ep);
    counts_ = backend(all).read_counts(all.reshaped({etp_ * ep_, experts_}), plan.order.size());
  }

  std::int64_t etp() const { return etp_; }
  std::int64_t ep() const { return ep_; }
  std::int64_t experts_of_rank() const { return experts_ / ep_; }

  // Of the local expert `expert` of ep rank `to`, those that ranks (`t`, `from`) hold.
  std::int64_t rows(std::int64_t t, std::int64_t from, std::int64_t to, std::int64_t expert) const {
    return counts_[std::size_t((from * etp_ + t) * experts_ + to * experts_of_rank() + expert)];
  }
  // All that ranks (t, from) send to ep rank `to`.
  std::int64_t rows(std::int64_t t, std::int64_t from, std::int64_t to) const {
    std::int64_t all = 0;
    for (std::int64_t e = 0; e < experts_of_rank(); ++e) all += rows(t, from, to, e);
    return all;
  }

 private:
  std::int64_t etp_, ep_, experts_;
  Counts counts_;
};

// From (etp, ep, expert) to (expert, etp, ep).
Plan sort_by_expert(const Census& census, const Mesh& mesh, const Label& label) {
  const std::int64_t experts = census.experts_of_rank(), self = mesh.coordinate(axes::ep);
  const auto run = [&](std::int64_t t, std::int64_t from, std::int64_t e) {
    return std::size_t((t * census.ep() + from) * experts + e);
  };
  Counts begins(std::size_t(census.etp() * census.ep() * experts));
  std::int64_t begin = 0;
  for (std::int64_t t = 0; t < census.etp(); ++t)
    for (std::int64_t from = 0; from < census.ep(); ++from)
      for (std::int64_t e = 0; e < experts; ++e) {
        begins[run(t, from, e)] = begin;
        begin += census.rows(t, from, self, e);
      }
  Plan plan;
  plan.order = Tensor::empty({begin}, DType::i32, mesh.device(), label);
  plan.place = Tensor::empty({begin}, DType::i32, mesh.device(), label);
  if (plan.order.is_meta()) return plan;
  auto *order = plan.order.data<std::int32_t>(), *place = plan.place.data<std::int32_t>();
  std::int32_t row = 0;
  for (std::int64_t e = 0; e < experts; ++e)
    for (std::int64_t t = 0; t < census.etp(); ++t)
      for (std::int64_t from = 0; from < census.ep(); ++from)
        for (std::int64_t i = 0; i < census.rows(t, from, self, e); ++i, ++row) {
          order[row] = std::int32_t(begins[run(t, from, e)] + i);
          place[order[row]] = row;
        }
  return plan;
}

// What this rank sends, receives and gathers, and what its experts will have.
Dispatched announced(const Plan& order, const Census& census, const Mesh& mesh) {
  const std::int64_t self = mesh.coordinate(axes::ep), own = mesh.coordinate(axes::etp);
  Dispatched there;
  there.order = order;
  there.kept = order.kept;
  for (std::int64_t other = 0; other < census.ep(); ++other) {
    there.sent.push_back(census.rows(own, self, other));
    there.received.push_back(census.rows(own, other, self));
  }
  for (std::int64_t t = 0; t < census.etp(); ++t) {
    there.gathered.push_back(0);
    for (std::int64_t from = 0; from < census.ep(); ++from)
      there.gathered.back() += census.rows(t, from, self);
  }
  for (std::int64_t e = 0; e < census.experts_of_rank(); ++e) {
    there.rows.counts.push_back(0);
    for (std::int64_t t = 0; t < census.etp(); ++t)
      for (std::int64_t from = 0; from < census.ep(); ++from)
        there.rows.counts.back() += census.rows(t, from, self, e);
  }
  return there;
}

Sending send_to_experts(const Tensor& x, const Choices& c, const Mesh& mesh) {
  const Plan order = plan(c.chosen, c.weights, c.experts, c.capacity);
  const Permuted rows = permute(x, c.weights, order);
  const Census census(order, mesh);
  Dispatched there = announced(order, census, mesh);
  const auto start = [&](const Tensor& of) {
    return start_all_to_all(cross(of, mesh), mesh, axes::ep, {there.sent, there.received},
                            Spread::rows, Spread::experts);
  };
  const Moving of_x = start(rows.x), of_weights = start(rows.weights);
  const Label there_label = cross(constant(rows.x.label()), mesh.tp_is_etp())
                                .with(axes::etp, Spread::replicated)
                                .with(axes::ep, Spread::experts);
  if (census.etp() * census.ep() > 1 && census.experts_of_rank() > 1)
    there.by_expert = sort_by_expert(census, mesh, there_label);
  return {std::move(there), of_x, of_weights};
}

Dispatched received_by_experts(Sending sending, const Mesh& mesh) {
  Dispatched there = std::move(sending.there);
  const Tensor x = sending.x.arrive(), weights = sending.weights.arrive();
  there.rows.x = all_gather(x, mesh, axes::etp, there.gathered);
  there.rows.weights = all_gather(weights, mesh, axes::etp, there.gathered);
  if (!there.by_expert.order) return there;
  const Permuted sorted = permute(there.rows.x, there.rows.weights, there.by_expert);
  there.rows.x = sorted.x;
  there.rows.weights = sorted.weights;
  return there;
}

Tensor back_from_experts(const Tensor& y, const Dispatched& there, const Mesh& mesh) {
  const Tensor as_came = there.by_expert.order ? combine(y, there.by_expert) : y;
  const Tensor mine = reduce_scatter(as_came, mesh, axes::etp, there.gathered);
  const Tensor back =
      all_to_all(mine, mesh, axes::ep, {there.received, there.sent}, Spread::experts, Spread::rows);
  return combine(cross(back, mesh), there.order);
}

// Of each rank of etp x ep.
Rows tokens_of_ranks(const Tensor& x, const Mesh& mesh) {
  const Label label = constant(cross(x.label(), mesh.tp_is_etp()));
  const Tensor own = Tensor::scalar(x.rows(), DType::i64, mesh.device(), label).reshaped({1, 1});
  const Tensor all = all_gather(own, mesh, axes::etp * axes::ep);
  return backend(all).read_counts(all, x.rows());
}

// The order of all ranks' choices of this rank's experts. Each rank drops its own: no block of a
// capacity is cut.
Plan plan_of_rank(const Tensor& kept, const Choices& c, const Rows& tokens, const Mesh& mesh) {
  const Tensor all = all_gather(cross(kept, mesh), mesh, axes::etp * axes::ep, tokens);
  const std::int64_t ep = mesh.size(axes::ep), experts = c.experts / ep;
  const Tensor own = choices_of(all, mesh.index(axes::ep, Spread::experts),
                                mesh.coordinate(axes::ep) * experts, experts);
  if (c.capacity.block == 0) return plan_kept(own, experts, all.size() / ep);
  const std::int64_t most = c.capacity.rows(all.rows(), all.columns(), c.experts);
  return plan_kept(own, experts, std::min(all.size() / ep, most * experts),
                   c.capacity.pads ? most : 0);
}

Sending gather_tokens(const Tensor& x, const Choices& c, const Mesh& mesh) {
  Dispatched there;
  there.by = Dispatcher::all_gather;
  there.tokens = tokens_of_ranks(x, mesh);
  const auto start = [&](const Tensor& of) {
    return start_all_gather(cross(of, mesh), mesh, axes::etp * axes::ep, there.tokens);
  };
  const Moving of_x = start(x), of_weights = start(c.weights);
  there.kept =
      c.capacity.block > 0 ? kept_choices(c.chosen, c.weights, c.experts, c.capacity) : c.chosen;
  there.order = plan_of_rank(there.kept, c, there.tokens, mesh);
  there.rows.counts = backend(x).read_counts(there.order.counts, there.order.order.size());
  return {std::move(there), of_x, of_weights};
}

Dispatched received_by_all(Sending sending) {
  Dispatched there = std::move(sending.there);
  const Tensor x = sending.x.arrive(), weights = sending.weights.arrive();
  const Permuted own = permute(x, weights, there.order);
  there.rows.x = own.x;
  there.rows.weights = own.weights;
  return there;
}

Tensor scattered_sums(const Tensor& y, const Dispatched& there, const Mesh& mesh) {
  const Tensor sums = combine(y, there.order, axes::ep);
  return cross(reduce_scatter(sums, mesh, axes::etp * axes::ep, there.tokens), mesh);
}

}  // namespace

Sending send(const Tensor& x, const Choices& choices, Dispatcher by, const Mesh& mesh) {
  const int ep = mesh.size(axes::ep);
  require(choices.experts % ep == 0, "dispatch: ", choices.experts, " experts over ep = ", ep,
          "; it must divide them");
  return by == Dispatcher::all_gather ? gather_tokens(x, choices, mesh)
                                      : send_to_experts(x, choices, mesh);
}

Dispatched receive(Sending sending, const Mesh& mesh) {
  return sending.there.by == Dispatcher::all_gather ? received_by_all(std::move(sending))
                                                    : received_by_experts(std::move(sending), mesh);
}

Tensor bring_back(const Tensor& y, const Dispatched& there, const Mesh& mesh) {
  return there.by == Dispatcher::all_gather ? scattered_sums(y, there, mesh)
                                            : back_from_experts(y, there, mesh);
}

}  // namespace pf
