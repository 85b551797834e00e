#include "parallel/gradient_bucket.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/backend.h"
#include "core/purpose.h"
#include "parallel/collectives.h"

namespace pf {
namespace {

constexpr std::size_t alignment = 64;  // bytes: kernels write gradients in place

std::int64_t aligned(std::int64_t size, DType type) {
  const auto step = std::int64_t(alignment / size_of(type));
  return (size + step - 1) / step * step;
}

}  // namespace

GradientBucket::GradientBucket(const Mesh& mesh, std::size_t squares_of_it, const Parameter& first)
    : set(summed_over(first.label())), squares(squares_of_it), type(first.type()) {
  owners.group = mesh.group(set);
  owners.self = std::size_t(mesh.coordinate(set));
}

bool is_of_two_stages(const Axes& set) {
  return std::ranges::find(set, Axis::ends) != set.end();
}

Tensor GradientBucket::place(const Tensor& of, std::size_t i) const {
  const Parameter& p = *parameters[i];
  return of.rows(begins[i], begins[i] + p.size()).reshaped(p.shape());
}

Call GradientBucket::call(const char* kind, const char* what) const {
  return {kind, set, type, {size}, false, what + parameters[0]->name() + "..."};
}

std::int64_t GradientBucket::bound(std::int64_t target, const Sharing& sharing) const {
  std::int64_t found = 0;
  for (std::size_t i = 0; i < parameters.size() && begins[i] <= target; ++i) {
    const Parameter& p = *parameters[i];
    const bool keeps = p.shape().dims() > 1 && sharing.keeps_matrices(p);
    const std::int64_t unit = keeps ? p.shape()[-1] * p.shape()[-2] : aligned(1, type);
    const std::int64_t offset = target - begins[i];
    found = offset >= aligned(p.size(), type)
                ? target
                : begins[i] + (std::min(offset, p.size()) + unit / 2) / unit * unit;
  }
  return found;
}

// Slices of the bucket for its owners, and slices of those for the groups of owners.
void GradientBucket::divide(const Sharing& sharing) {
  const Slices all = owners;
  const int ranks = int(all.group.size());
  const int shard = sharing.ranks == 0 ? ranks : std::gcd(sharing.ranks, ranks);
  owners = {{}, all.self % std::size_t(shard), {0}};
  groups = {{}, all.self / std::size_t(shard), {}};
  const std::int64_t even = aligned((size + shard - 1) / shard, type);
  for (int i = 0; i < shard; ++i) {
    owners.group.push_back(all.group[groups.self * std::size_t(shard) + std::size_t(i)]);
    owners.bounds.push_back(i + 1 < shard ? bound(std::min(size, (i + 1) * even), sharing) : size);
  }
  const std::int64_t slice = owners.end() - owners.begin();
  const std::int64_t share = aligned((slice * shard + ranks - 1) / ranks, type);
  for (int i = 0; i <= ranks / shard; ++i) {
    groups.bounds.push_back(std::min(slice, i * share));
    if (i < ranks / shard) groups.group.push_back(all.group[std::size_t(i * shard) + owners.self]);
  }
  for (const Slices* slices : {&owners, &groups})
    if (slices->group.size() > 1) sums.push_back(slices);
}

void GradientBucket::allocate(const Mesh& mesh, const Sharing& sharing) {
  for (const Parameter* p : parameters) {
    begins.push_back(size);
    size += aligned(p->size(), type);
  }
  divide(sharing);
  divided = is_of_two_stages(set) ? Divided::states : sharing.divided;

  Device& device = mesh.device();
  const std::int64_t begin = owners.begin(), end = owners.end();
  const PurposeScope of_part(parts::gradients);
  if (divides_gradients()) {
    own = Tensor::zeros({end - begin}, type, device);
    for (Parameter* p : parameters)
      p->place_gradient_late([this, &device] { place_gradients(device); });
  } else {
    place_gradients(device);
    own = flat.rows(begin, end);
  }
  keep_values(device);
}

Part GradientBucket::part(std::size_t i) const {
  Parameter* p = parameters[i];
  const std::int64_t begin = owners.begin(), end = owners.end();
  Part part{p, std::clamp<std::int64_t>(begin - begins[i], 0, p->size()),
            std::clamp<std::int64_t>(end - begins[i], 0, p->size())};
  part.replica = int(groups.self);
  part.replicas = int(groups.group.size());
  const auto kept_of = [&](const Tensor& slice, const Label& label) {
    const std::int64_t first = begins[i] + part.begin - begin;
    return slice.rows(first, first + part.size()).labelled(label);
  };
  if (part.size() > 0 && divides_gradients())
    part.kept_gradient = kept_of(own, gradient_of(p->label()));
  if (part.size() > 0 && divides_weights()) part.kept_value = kept_of(kept, p->label());
  return part;
}

void GradientBucket::place_gradients(Device& device) {
  const PurposeScope of_part(parts::gradients);
  flat = Tensor::empty({size}, type, device);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const std::int64_t end = begins[i] + parameters[i]->size();
    const Tensor gap = flat.rows(end, i + 1 < begins.size() ? begins[i + 1] : size);
    if (gap.size() > 0) backend(gap).fill(gap, 0);
    parameters[i]->place_gradient(place(flat, i));
  }
}

void GradientBucket::drop_gradients() {
  for (Parameter* p : parameters) p->drop_gradient();
  flat = {};
}

void GradientBucket::keep_values(Device& device) {
  if (!is_shared()) return;
  const PurposeScope of_part(parts::weights);
  if (divides_weights())
    kept = Tensor::zeros({owners.end() - owners.begin()}, type, device);
  else
    values = Tensor::zeros({size}, type, device);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    Parameter& p = *parameters[i];
    if (!divides_weights()) {
      p.place_value(place(values, i));
      continue;
    }
    const Part mine = part(i);
    if (mine.size() > 0) backend(kept).copy(mine.kept_value, mine.of(p.value()));
    p.drop_value();
  }
}

void GradientBucket::drop_values() {
  for (Parameter* p : parameters) p->drop_value();
  for (Pack* pack : packs) pack->drop();
  values = {};
}

// Each rank of the group sends every other one its slice of `of`.
std::unique_ptr<Pending> GradientBucket::gather(const Mesh& mesh, const Call& call,
                                                const Slices& slices, const Tensor& of) const {
  const auto mine = bytes_of(of.rows(slices.begin(), slices.end()));
  std::vector<ConstBytes> send(slices.group.size(), mine);
  std::vector<Bytes> receive;
  for (std::size_t i = 0; i < slices.group.size(); ++i)
    receive.push_back(bytes_of(of.rows(slices.bounds[i], slices.bounds[i + 1])));
  send[slices.self] = receive[slices.self] = {};
  return mesh.communicator().exchange(slices.group, call, std::move(send), std::move(receive));
}

void GradientBucket::gather_values(const Mesh& mesh) {
  if (divides_weights()) {
    const PurposeScope of_part(parts::weights);
    values = Tensor::empty({size}, type, mesh.device());
    backend(values).copy(values.rows(owners.begin(), owners.end()), kept);
  }
  values_pending = gather(mesh, call("gather_weights", "weights of "), owners, values);
}

}  // namespace pf
