#include "parallel/dispatch.h"

#include "core/error.h"
#include "parallel/table.h"

namespace pf {
namespace {

using Counts = std::vector<std::int64_t>;

// Rows of each expert on each rank of etp x ep.
class Census {
 public:
  Census(const Permuted& rows, const Plan& plan, const Mesh& mesh)
      : etp_(mesh.size(axes::etp)), ep_(mesh.size(axes::ep)), experts_(plan.counts.size()) {
    require(experts_ % ep_ == 0, "dispatch: ", experts_, " experts over ep = ", ep_,
            "; it must divide them");
    const Tensor all = all_gather(cross(plan.counts, mesh), mesh, axes::etp * axes::ep);
    counts_ = backend(all).read_counts(all.reshaped({etp_ * ep_, experts_}), rows.x.rows());
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

// From (etp, ep, expert) to (expert, etp, ep). `like` is what will be sorted.
Plan sort_by_expert(const Census& census, std::int64_t self, const Tensor& like) {
  const std::int64_t experts = census.experts_of_rank();
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
  const Label label = constant(like.label());
  plan.order = Tensor::empty({like.rows()}, DType::i32, like.device(), label);
  plan.place = Tensor::empty({like.rows()}, DType::i32, like.device(), label);
  if (like.is_meta()) return plan;
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

}  // namespace

Dispatched dispatch(const Permuted& rows, const Plan& plan, const Mesh& mesh) {
  const Census census(rows, plan, mesh);
  const std::int64_t self = mesh.coordinate(axes::ep), own = mesh.coordinate(axes::etp);
  Dispatched there;
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
  const auto send = [&](const Tensor& x) {
    const Tensor y = all_to_all(cross(x, mesh), mesh, axes::ep, {there.sent, there.received},
                                Spread::rows, Spread::experts);
    return all_gather(y, mesh, axes::etp, there.gathered);
  };
  there.rows.x = send(rows.x);
  there.rows.weights = send(rows.weights);
  if (census.etp() * census.ep() == 1 || census.experts_of_rank() == 1) return there;
  there.by_expert = sort_by_expert(census, self, there.rows.x);
  const Permuted sorted = permute(there.rows.x, there.rows.weights, there.by_expert);
  there.rows.x = sorted.x;
  there.rows.weights = sorted.weights;
  return there;
}

Tensor bring_back(const Tensor& y, const Dispatched& there, const Mesh& mesh) {
  const Tensor as_came = there.by_expert.order ? combine(y, there.by_expert) : y;
  const Tensor mine = reduce_scatter(as_came, mesh, axes::etp, there.gathered);
  return cross(
      all_to_all(mine, mesh, axes::ep, {there.received, there.sent}, Spread::experts, Spread::rows),
      mesh);
}

}  // namespace pf
