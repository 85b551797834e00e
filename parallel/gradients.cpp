#include "parallel/gradients.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "parallel/collectives.h"
#include "parallel/table.h"

namespace pf {
namespace {

constexpr std::size_t alignment = 64;      // bytes: kernels write gradients in place
constexpr std::size_t most_in_flight = 2;  // layers

std::int64_t aligned(std::int64_t size, DType type) {
  const auto step = std::int64_t(alignment / size_of(type));
  return (size + step - 1) / step * step;
}

// Of the sum of squares of a reduced gradient: a rank sums the slice that it has reduced, so that
// on the axes of the sum each holds a part, like on those that cut the parameter.
Label label_of_squares(const Label& parameter) {
  Label label = parameter;
  for (const Axis a : axes_of(label.view)) {
    if (label[a] == Spread::replicated) label = label.with({a}, Spread::partial);
    if (is_varying(label[a])) label = label.with({a}, Spread::rows);
  }
  return label;
}

bool has(const Axes& set, Axis axis) {
  return std::ranges::find(set, axis) != set.end();
}

Axes invariant_axes(const Label& label) {
  Axes out;
  for (const Axis a : axes_of(label.view))
    if (label[a] == Spread::invariant) out.push_back(a);
  return out;
}

// A sum that a group makes by slices: rank i of it makes [bounds[i], bounds[i + 1]) of the bucket.
struct Slices {
  std::vector<int> group;  // world ranks
  std::size_t self = 0;
  std::vector<std::int64_t> bounds;

  std::int64_t begin() const { return bounds[self]; }
  std::int64_t end() const { return bounds[self + 1]; }
};

}  // namespace

struct Gradients::Bucket {
  Bucket(const Mesh& mesh, std::size_t layer_of_it, std::size_t squares_of_it,
         const Parameter& first)
      : layer(layer_of_it),
        set(summed_over(first.label())),
        squares(squares_of_it),
        type(first.value().dtype()) {
    owners.group = mesh.group(set);
    owners.self = std::size_t(mesh.coordinate(set));
  }

  // Once all parameters are known: each gets its place.
  void allocate(const Mesh& mesh, const Sharing& sharing);
  // A place near `target` that cuts nothing that must not be cut.
  std::int64_t bound(std::int64_t target, const Sharing& sharing) const;
  bool is_shared() const { return owners.group.size() > 1; }
  Slices& sum() { return sums[at]; }
  std::unique_ptr<Pending> gather(const Mesh& mesh, const Call& call, const Slices& slices,
                                  const Tensor& of) const;
  Call call(const char* kind, const char* what = "gradients of ") const {
    return {kind, set, type, flat.shape(), false, what + parameters[0]->name() + "..."};
  }

  std::vector<Parameter*> parameters;
  std::vector<std::int64_t> begins;  // of the parameters
  std::size_t layer;
  Axes set;
  std::size_t squares;
  DType type;
  Slices owners;             // whose slices stay cut
  std::vector<Slices> sums;  // over the owners, then over the groups of owners: those of > 1 rank
  std::size_t at = 0;        // the sum under way
  Tensor flat, values;       // [elements]; values only where they are shared
  Tensor received;           // this rank's slice, from the others
  std::unique_ptr<Pending> pending, values_pending;  // last: withdrawn before the memory goes
};

std::int64_t Gradients::Bucket::bound(std::int64_t target, const Sharing& sharing) const {
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

void Gradients::Bucket::allocate(const Mesh& mesh, const Sharing& sharing) {
  std::int64_t size = 0;
  for (const Parameter* p : parameters) {
    begins.push_back(size);
    size += aligned(p->size(), type);
  }
  flat = Tensor::zeros({size}, type, mesh.device());

  const Slices all = owners;
  const int ranks = int(all.group.size());
  const int shard = sharing.ranks == 0 ? ranks : std::gcd(sharing.ranks, ranks);
  owners = {{}, all.self % std::size_t(shard), {0}};
  const std::int64_t even = aligned((size + shard - 1) / shard, type);
  Slices groups{{}, all.self / std::size_t(shard), {}};
  for (int i = 0; i < shard; ++i) {
    owners.group.push_back(all.group[groups.self * std::size_t(shard) + std::size_t(i)]);
    owners.bounds.push_back(i + 1 < shard ? bound(std::min(size, (i + 1) * even), sharing) : size);
  }
  const std::int64_t slice = owners.end() - owners.begin();
  const std::int64_t share = aligned((slice * shard + ranks - 1) / ranks, type);
  for (int i = 0; i <= ranks / shard; ++i) {
    groups.bounds.push_back(owners.begin() + std::min(slice, i * share));
    if (i < ranks / shard) groups.group.push_back(all.group[std::size_t(i * shard) + owners.self]);
  }
  for (const Slices& slices : {owners, groups})
    if (slices.group.size() > 1) sums.push_back(slices);

  if (is_shared()) values = Tensor::zeros({size}, type, mesh.device());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    Parameter& p = *parameters[i];
    const auto place = [&](const Tensor& x) {
      return x.rows(begins[i], begins[i] + p.size()).reshaped(p.shape());
    };
    p.place_gradient(place(flat));
    if (is_shared()) p.place_value(place(values));
  }
}

Gradients::Gradients(const Mesh& mesh, const std::vector<std::vector<Parameter*>>& layers,
                     const Sharing& sharing)
    : mesh_(&mesh), unused_(Tensor::zeros({}, DType::f64, mesh.device())) {
  layers_.resize(layers.size() + 1);
  for (std::size_t layer = 0; layer < layers.size(); ++layer)
    for (Parameter* p : layers[layer]) place(*p, layer);
  for (const auto& buckets : layers_)
    for (const auto& bucket : buckets) {
      bucket->allocate(mesh, sharing);
      const Slices& own = bucket->owners;
      for (std::size_t i = 0; i < bucket->parameters.size(); ++i) {
        Parameter* p = bucket->parameters[i];
        const std::int64_t begin = bucket->begins[i];
        const Part part{p, std::max<std::int64_t>(own.begin() - begin, 0),
                        std::min(own.end() - begin, p->size())};
        if (part.size() > 0) parts_.push_back(part);
      }
    }
}

// Parameters whose squares have one label are also summed over the same axes: they share a bucket.
void Gradients::place(Parameter& p, std::size_t layer) {
  require(bool(p.value()), "gradients: parameter ", p.name(), " has no value; initialise() it");
  require(p.is_trainable(), "gradients: parameter ", p.name(), " is frozen; leave it out");
  const std::size_t squares = squares_of(p);
  const bool is_of_two_stages = has(summed_over(p.label()), Axis::ends);
  auto& buckets = is_of_two_stages ? layers_.back() : layers_[layer];
  auto found = std::ranges::find_if(buckets, [&](const std::unique_ptr<Bucket>& bucket) {
    return bucket->squares == squares && bucket->type == p.value().dtype() &&
           bucket->layer == layer;
  });
  if (found == buckets.end())
    found = buckets.insert(found, std::make_unique<Bucket>(*mesh_, layer, squares, p));
  (*found)->parameters.push_back(&p);
}

Gradients::~Gradients() = default;

std::size_t Gradients::squares_of(const Parameter& parameter) {
  const Label label = label_of_squares(parameter.label());
  const auto found =
      std::ranges::find_if(squares_, [&](const Squares& s) { return s.label() == label; });
  const auto index = std::size_t(found - squares_.begin());
  if (found == squares_.end())
    squares_.push_back(Tensor::zeros({}, DType::f64, mesh_->device(), label));
  return index;
}

void Gradients::clear() {
  for (const auto& layer : layers_) {
    for (const auto& bucket : layer) {
      require(bucket->pending == nullptr, "gradients: clear() while sums are under way; finish()");
      for (Parameter* p : bucket->parameters) p->clear_gradient();
      bucket->at = 0;
    }
  }
  for (const Squares& s : squares_) backend(s).fill(s, 0);
  started_.clear();
  summed_ = reduced_ = 0;
}

void Gradients::start(std::size_t layer) {
  require(layer + 1 < layers_.size(), "gradients: layer ", layer, " of ", layers_.size() - 1);
  start_sums(layer);
}

void Gradients::start_sums(std::size_t layer) {
  require(std::ranges::find(started_, layer) == started_.end(), "gradients: layer ", layer,
          " was started already; clear() comes first");
  advance(most_in_flight - 1);
  for (const auto& bucket : layers_[layer]) {
    for (Parameter* p : bucket->parameters) p->gradient();
    scatter(*bucket);
  }
  started_.push_back(layer);
  poll();
}

// Leaves `most` layers on their way in the first sum, and as many in the second. At a fixed place,
// not when the pieces happen to be here: the order of calls and the memory are then the same in
// every run.
void Gradients::advance(std::size_t most) {
  const auto reduce_next = [&](std::size_t& done, std::size_t sum) {
    for (const auto& bucket : layers_[started_[done]])
      if (sum == 0 || bucket->at < bucket->sums.size()) reduce(*bucket);
    ++done;
  };
  while (summed_ - reduced_ > most) reduce_next(reduced_, 1);
  while (started_.size() - summed_ > most) reduce_next(summed_, 0);
  if (most == 0)
    while (reduced_ < summed_) reduce_next(reduced_, 1);
}

// Each rank of the group sends every other one its slice of `of`.
std::unique_ptr<Pending> Gradients::Bucket::gather(const Mesh& mesh, const Call& call,
                                                   const Slices& slices, const Tensor& of) const {
  const auto own = bytes_of(of.rows(slices.begin(), slices.end()));
  std::vector<ConstBytes> send(slices.group.size(), own);
  std::vector<Bytes> receive;
  for (std::size_t i = 0; i < slices.group.size(); ++i)
    receive.push_back(bytes_of(of.rows(slices.bounds[i], slices.bounds[i + 1])));
  send[slices.self] = receive[slices.self] = {};
  return mesh.communicator().exchange(slices.group, call, std::move(send), std::move(receive));
}

void Gradients::scatter(Bucket& bucket) {
  if (bucket.at == bucket.sums.size()) return;
  const Slices& sum = bucket.sum();
  const std::size_t ranks = sum.group.size();
  const std::int64_t slice = sum.end() - sum.begin();
  bucket.received = Tensor::empty({std::int64_t(ranks - 1), slice}, bucket.type, mesh_->device());
  std::vector<ConstBytes> send(ranks, ConstBytes{});
  std::vector<Bytes> receive(ranks, Bytes{});
  for (std::size_t i = 0, row = 0; i < ranks; ++i) {
    if (i == sum.self) continue;
    send[i] = bytes_of(bucket.flat.rows(sum.bounds[i], sum.bounds[i + 1]));
    receive[i] = bytes_of(bucket.received.rows(std::int64_t(row), std::int64_t(row) + 1));
    ++row;
  }
  bucket.pending = mesh_->communicator().exchange(sum.group, bucket.call("scatter_gradients"),
                                                  std::move(send), std::move(receive));
}

// Ends the sum under way and starts what comes next: another sum, or the way back.
void Gradients::reduce(Bucket& bucket) {
  if (bucket.sums.empty()) {
    const Tensor all[] = {bucket.flat};
    return backend(bucket.flat).reduce(bucket.flat, all, squares_[bucket.squares]);
  }
  const Slices& sum = bucket.sum();
  const bool is_last = ++bucket.at == bucket.sums.size();
  const Tensor own = bucket.flat.rows(sum.begin(), sum.end());
  std::vector<Tensor> parts;
  bucket.pending->wait();
  bucket.pending.reset();
  for (std::size_t i = 0, row = 0; i < sum.group.size(); ++i) {
    const auto r = std::int64_t(row);
    parts.push_back(i == sum.self ? own : bucket.received.rows(r, r + 1).reshaped({own.size()}));
    row += i != sum.self;
  }
  backend(own).reduce(own, parts, is_last ? squares_[bucket.squares] : unused_);
  bucket.received = {};
  if (!is_last) return scatter(bucket);
  const bool is_sum_of_owners = bucket.is_shared() && bucket.sums.size() == 1;
  if (!is_sum_of_owners)
    bucket.pending = bucket.gather(*mesh_, bucket.call("gather_gradients"), sum, bucket.flat);
}

void Gradients::poll() {
  for (const std::size_t layer : started_)
    for (const auto& bucket : layers_[layer])
      if (bucket->pending) bucket->pending->poll();
}

double Gradients::finish() {
  require(started_.size() + 1 == layers_.size(), "gradients: ", started_.size(), " of ",
          layers_.size() - 1, " layers were started");
  start_sums(layers_.size() - 1);
  advance(0);
  for (const auto& layer : layers_) {
    for (const auto& bucket : layer) {
      if (bucket->pending) bucket->pending->wait();
      bucket->pending.reset();
    }
  }
  return norm();
}

void Gradients::share_values() {
  for (const auto& layer : layers_) {
    for (const auto& bucket : layer) {
      require(bucket->values_pending == nullptr, "gradients: share_values() twice, and no wait");
      if (bucket->is_shared())
        bucket->values_pending = bucket->gather(
            *mesh_, bucket->call("gather_weights", "weights of "), bucket->owners, bucket->values);
    }
  }
}

void Gradients::wait_for_values(std::size_t layer) {
  if (layer >= layers_.size()) return;
  for (const auto* buckets : {&layers_[layer], &layers_.back()}) {
    for (const auto& bucket : *buckets) {
      if (!bucket->values_pending || bucket->layer != layer) continue;
      bucket->values_pending->wait();
      bucket->values_pending.reset();
      for (Parameter* p : bucket->parameters) p->changed();
    }
  }
}

void Gradients::wait_for_values() {
  for (std::size_t layer = 0; layer < layers_.size(); ++layer) wait_for_values(layer);
}

double Gradients::norm() const {
  const Label one = dense(Spread::partial, Spread::partial, Spread::partial, Spread::partial);
  Tensor sum = Tensor::zeros({}, DType::f64, mesh_->device(), one);
  for (const Squares& squares : squares_) {
    Tensor part = once(total(squares), *mesh_, invariant_axes(squares.label()));
    if (part.label().view == View::expert) part = cross(part, *mesh_);
    meet("gradient norm", Meeting::sum, {sum.label(), part.label()});
    const Tensor terms[] = {sum, part};
    backend(sum).add(sum, terms);
  }
  return std::sqrt(all_reduce(sum, *mesh_, axes_of(View::dense)).item());
}

}  // namespace pf
