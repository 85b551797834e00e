#include "models/balance.h"

#include "core/error.h"
#include "core/ops/loss.h"
#include "parallel/table.h"

namespace pf {

Balance::Balance(const Mesh& mesh, std::int64_t group) : mesh_(&mesh), group_(group) {
  const int dp = mesh.size(axes::dp);
  require(group >= 1 && (group % dp == 0 || dp % group == 0), "model.moe.balance.group is ", group,
          " and dp is ", dp, "; one must be a multiple of the other");
}

std::int64_t Balance::steps_together() const {
  return std::max<std::int64_t>(1, group_ / mesh_->size(axes::dp));
}

void Balance::clear() {
  waiting_.clear();
  bound_.clear();
  so_far_.clear();
}

Tensor Balance::shares(int layer, std::int64_t micro_batch, const Tensor& counts) {
  const Key key{micro_batch, layer};
  if (const auto found = bound_.find(key); found != bound_.end()) return found->second;
  Entry& entry = waiting_[key];
  if (!entry.shares) {
    const Label label =
        constant(counts.label().with(axes::tp * axes::cp * axes::dp, Spread::replicated));
    entry.shares = Tensor::zeros(counts.shape(), counts.dtype(), counts.device(), label);
  }
  entry.counts = counts;
  return entry.shares;
}

void Balance::add_loss(int layer, std::int64_t micro_batch, const Tensor& loss,
                       const Tensor& score_sums, double factor) {
  if (bound_.contains({micro_batch, layer})) return;
  Entry& entry = waiting_.at({micro_batch, layer});
  entry.loss = loss.detached();
  entry.score_sums = score_sums.detached();
  entry.factor = factor;
}

void Balance::bind(std::int64_t up_to) {
  const std::int64_t dp = mesh_->size(axes::dp), unit = std::max(group_, dp);
  // Those of groups that are still being counted stay: all replicas part them alike.
  std::map<Key, Entry> binding;
  while (!waiting_.empty() && waiting_.begin()->first.first / unit <= up_to / unit)
    binding.insert(waiting_.extract(waiting_.begin()));
  if (binding.empty()) return;
  const PurposeScope of_part("router");
  const std::int64_t rows = std::int64_t(binding.size());
  const Tensor& like = binding.begin()->second.counts;
  Device& device = like.device();
  const Tensor mine = Tensor::empty({rows, like.columns()}, like.dtype(), device, like.label());
  std::int64_t row = 0;
  for (const auto& [key, entry] : binding) {
    backend(mine).copy(mine.rows(row, row + 1), entry.counts);
    ++row;
  }
  // [replica, entry]: replica d's entries are those of micro-batches j with j mod dp = d, in the
  // same order.
  const Tensor all = all_gather(all_reduce(mine, *mesh_, axes::tp * axes::cp), *mesh_, axes::dp);

  std::map<int, std::vector<Tensor>> of_layer;
  for (const auto& [key, entry] : binding) {
    const auto [micro_batch, layer] = key;
    const std::int64_t last = (micro_batch / group_ + 1) * group_ - 1;  // of the group
    std::vector<Tensor> terms;
    if (const auto found = so_far_.find(layer); found != so_far_.end())
      terms.push_back(found->second);
    std::int64_t other_row = 0;
    for (const auto& [other, unused] : binding) {
      const std::int64_t first_of_step = other.first / dp * dp;
      for (std::int64_t d = 0; d < dp && other.second == layer; ++d)
        if (first_of_step + d <= last)
          terms.push_back(all.rows(d * rows + other_row, d * rows + other_row + 1));
      ++other_row;
    }
    const Tensor sum = Tensor::like(entry.shares);
    backend(sum).add(sum, terms);
    backend(sum).normalise_rows(entry.shares, sum);
    if (entry.loss) backend(sum).dot(entry.loss, entry.score_sums, entry.shares, entry.factor);
    bound_[key] = entry.shares;
  }
  row = 0;
  for (const auto& [key, entry] : binding) {
    auto& terms = of_layer[key.second];
    if (const auto found = so_far_.find(key.second); terms.empty() && found != so_far_.end())
      terms.push_back(found->second);
    for (std::int64_t d = 0; d < dp; ++d)
      terms.push_back(all.rows(d * rows + row, d * rows + row + 1));
    ++row;
  }
  for (auto& [layer, terms] : of_layer) {
    const Tensor sum = Tensor::like(terms[0]);
    backend(sum).add(sum, terms);
    so_far_[layer] = sum;
  }
}

}  // namespace pf
