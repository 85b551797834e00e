#include "parallel/gradients.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

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

// Parameters side by side, and what this rank keeps of them.
struct Gradients::Bucket {
  Bucket(const Mesh& mesh, std::size_t squares_of_it, const Parameter& first)
      : set(summed_over(first.label())), squares(squares_of_it), type(first.type()) {
    owners.group = mesh.group(set);
    owners.self = std::size_t(mesh.coordinate(set));
  }

  // Once all parameters are known: each gets its place.
  void allocate(const Mesh& mesh, const Sharing& sharing);
  void divide(const Sharing& sharing);
  // A place near `target` that cuts nothing that must not be cut.
  std::int64_t bound(std::int64_t target, const Sharing& sharing) const;
  bool is_of_two_stages() const { return has(set, Axis::ends); }
  bool is_shared() const { return owners.group.size() > 1; }
  bool divides_gradients() const { return is_shared() && divided != Divided::states; }
  bool divides_weights() const { return is_shared() && divided == Divided::weights; }

  // Parameter i of a tensor like the bucket.
  Tensor place(const Tensor& of, std::size_t i) const {
    const Parameter& p = *parameters[i];
    return of.rows(begins[i], begins[i] + p.size()).reshaped(p.shape());
  }
  // What this rank changes of parameter i; may be empty.
  Part part(std::size_t i) const;
  void place_gradients(Device& device);
  void drop_gradients();
  // Of parameters that have values.
  void keep_values(Device& device);
  void drop_values();

  std::unique_ptr<Pending> gather(const Mesh& mesh, const Call& call, const Slices& slices,
                                  const Tensor& of) const;
  void gather_values(const Mesh& mesh);
  Call call(const char* kind, const char* what = "gradients of ") const {
    return {kind, set, type, {size}, false, what + parameters[0]->name() + "..."};
  }

  std::vector<Parameter*> parameters;
  std::vector<std::int64_t> begins;  // of the parameters
  std::vector<Pack*> packs;          // that have one of them
  std::int64_t size = 0;
  Axes set;
  std::size_t squares;
  DType type;
  Divided divided = Divided::states;
  Slices owners;                    // whose slices stay cut
  Slices groups;                    // of owners, each of which makes a part of a slice's sum
  std::vector<const Slices*> sums;  // of more than one rank: over owners, then over their groups
  Tensor flat;        // [size], gradients; empty between start() and weight work where divided
  Tensor own;         // the owner's slice of their sums
  bool adds = false;  // there is something in `own` already
  Tensor values;      // [size], if they are shared; empty unless held where divided
  Tensor kept;        // the owner's slice of divided values
  int holds = 0;      // uses under way or expected
  std::unique_ptr<Pending> values_pending;  // last: withdrawn before the memory goes
};

// A sum under way.
struct Gradients::Sum {
  Bucket* bucket = nullptr;
  bool is_last = false;  // of the step
  Tensor flat;           // what this rank adds
  std::size_t at = 0;    // of bucket->sums
  Tensor received;       // this rank's slice, from the others
  std::unique_ptr<Pending> pending;

  std::size_t count() const { return is_last ? bucket->sums.size() : 1; }
  const Slices& slices() const { return *bucket->sums[at]; }
  bool is_of_owners() const { return &slices() == &bucket->owners; }
  const Tensor& terms() const { return is_of_owners() ? flat : bucket->own; }
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

// Slices of the bucket for its owners, and slices of those for the groups of owners.
void Gradients::Bucket::divide(const Sharing& sharing) {
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

void Gradients::Bucket::allocate(const Mesh& mesh, const Sharing& sharing) {
  for (const Parameter* p : parameters) {
    begins.push_back(size);
    size += aligned(p->size(), type);
  }
  divide(sharing);
  divided = is_of_two_stages() ? Divided::states : sharing.divided;

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

Part Gradients::Bucket::part(std::size_t i) const {
  Parameter* p = parameters[i];
  const std::int64_t begin = owners.begin(), end = owners.end();
  Part part{p, std::clamp<std::int64_t>(begin - begins[i], 0, p->size()),
            std::clamp<std::int64_t>(end - begins[i], 0, p->size())};
  const auto kept_of = [&](const Tensor& slice, const Label& label) {
    const std::int64_t first = begins[i] + part.begin - begin;
    return slice.rows(first, first + part.size()).labelled(label);
  };
  if (part.size() > 0 && divides_gradients())
    part.kept_gradient = kept_of(own, gradient_of(p->label()));
  if (part.size() > 0 && divides_weights()) part.kept_value = kept_of(kept, p->label());
  return part;
}

void Gradients::Bucket::place_gradients(Device& device) {
  const PurposeScope of_part(parts::gradients);
  flat = Tensor::empty({size}, type, device);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const std::int64_t end = begins[i] + parameters[i]->size();
    const Tensor gap = flat.rows(end, i + 1 < begins.size() ? begins[i + 1] : size);
    if (gap.size() > 0) backend(gap).fill(gap, 0);
    parameters[i]->place_gradient(place(flat, i));
  }
}

void Gradients::Bucket::drop_gradients() {
  for (Parameter* p : parameters) p->drop_gradient();
  flat = {};
}

void Gradients::Bucket::keep_values(Device& device) {
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

void Gradients::Bucket::drop_values() {
  for (Parameter* p : parameters) p->drop_value();
  for (Pack* pack : packs) pack->drop();
  values = {};
}

// Each rank of the group sends every other one its slice of `of`.
std::unique_ptr<Pending> Gradients::Bucket::gather(const Mesh& mesh, const Call& call,
                                                   const Slices& slices, const Tensor& of) const {
  const auto mine = bytes_of(of.rows(slices.begin(), slices.end()));
  std::vector<ConstBytes> send(slices.group.size(), mine);
  std::vector<Bytes> receive;
  for (std::size_t i = 0; i < slices.group.size(); ++i)
    receive.push_back(bytes_of(of.rows(slices.bounds[i], slices.bounds[i + 1])));
  send[slices.self] = receive[slices.self] = {};
  return mesh.communicator().exchange(slices.group, call, std::move(send), std::move(receive));
}

void Gradients::Bucket::gather_values(const Mesh& mesh) {
  if (divides_weights()) {
    const PurposeScope of_part(parts::weights);
    values = Tensor::empty({size}, type, mesh.device());
    backend(values).copy(values.rows(owners.begin(), owners.end()), kept);
  }
  values_pending = gather(mesh, call("gather_weights", "weights of "), owners, values);
}

Gradients::Gradients(const Mesh& mesh, const std::vector<LayerWeights>& layers,
                     const Sharing& sharing,
                     const std::function<void(std::size_t layer)>& initialise)
    : mesh_(&mesh), layers_(layers.size()), unused_(Tensor::zeros({}, DType::f64, mesh.device())) {
  std::map<const Parameter*, Bucket*> bucket_with;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    if (initialise) initialise(l);
    Layer& layer = layers_[l];
    for (Parameter* p : layers[l].parameters) {
      Bucket*& bucket = bucket_with[p];
      if (bucket == nullptr) bucket = &bucket_of(layer, *p);
      if (std::ranges::find(layer.used, bucket) == layer.used.end()) layer.used.push_back(bucket);
    }
    allocate(layer, sharing);
    for (Pack* pack : layers[l].packs)
      for (const Parameter* p : pack->sources()) {
        const auto found = bucket_with.find(p);
        if (found != bucket_with.end()) found->second->packs.push_back(pack);
      }
  }
  allocate(of_two_stages_, sharing);
}

void Gradients::allocate(const Layer& layer, const Sharing& sharing) {
  for (const auto& bucket : layer.buckets) {
    bucket->allocate(*mesh_, sharing);
    for (std::size_t i = 0; i < bucket->parameters.size(); ++i)
      if (const Part part = bucket->part(i); part.size() > 0) parts_.push_back(part);
  }
}

Gradients::~Gradients() {
  each_bucket([](Bucket& bucket) {
    if (!bucket.divides_gradients()) return;
    for (Parameter* p : bucket.parameters) p->place_gradient_late({});
  });
}

void Gradients::each_bucket(const std::function<void(Bucket&)>& f) {
  for (const Layer& layer : layers_)
    for (const auto& bucket : layer.buckets) f(*bucket);
  for (const auto& bucket : of_two_stages_.buckets) f(*bucket);
}

// Parameters whose squares have one label are also summed over the same axes: they share a bucket.
Gradients::Bucket& Gradients::bucket_of(Layer& layer, Parameter& p) {
  require(bool(p.value()), "gradients: parameter ", p.name(), " has no value; initialise() it");
  require(p.is_trainable(), "gradients: parameter ", p.name(), " is frozen; leave it out");
  const std::size_t squares = squares_of(p);
  auto& buckets = has(summed_over(p.label()), Axis::ends) ? of_two_stages_.buckets : layer.buckets;
  auto found = std::ranges::find_if(buckets, [&](const std::unique_ptr<Bucket>& bucket) {
    return bucket->squares == squares && bucket->type == p.type();
  });
  if (found == buckets.end())
    found = buckets.insert(found, std::make_unique<Bucket>(*mesh_, squares, p));
  (*found)->parameters.push_back(&p);
  return **found;
}

std::size_t Gradients::squares_of(const Parameter& parameter) {
  const Label label = label_of_squares(parameter.label());
  const auto found =
      std::ranges::find_if(squares_, [&](const Squares& s) { return s.label() == label; });
  const auto index = std::size_t(found - squares_.begin());
  const PurposeScope of_part(parts::gradients);
  if (found == squares_.end())
    squares_.push_back(Tensor::zeros({}, DType::f64, mesh_->device(), label));
  return index;
}

void Gradients::clear() {
  require(summed_ == started_.size() && reduced_ == started_.size(),
          "gradients: clear() while sums are under way; finish()");
  for (Layer& layer : layers_) layer.is_started = false;
  each_bucket([](Bucket& bucket) {
    bucket.adds = false;
    if (bucket.divides_gradients()) bucket.drop_gradients();
    for (Parameter* p : bucket.parameters) p->clear_gradient();
  });
  for (const Squares& s : squares_) backend(s).fill(s, 0);
  started_.clear();
  summed_ = reduced_ = 0;
}

void Gradients::start(std::size_t layer, bool is_last) {
  require(layer < layers_.size(), "gradients: layer ", layer, " of ", layers_.size());
  require(!layers_[layer].is_started, "gradients: layer ", layer,
          " was started already; clear() comes first");
  layers_[layer].is_started = is_last;
  start_sums(layers_[layer], is_last);
}

void Gradients::start_sums(Layer& layer, bool is_last) {
  std::vector<Sum> sums;
  for (const auto& bucket : layer.buckets) {
    if (!is_last && !bucket->divides_gradients()) continue;
    for (Parameter* p : bucket->parameters) p->gradient();
    sums.push_back({bucket.get(), is_last, bucket->flat, 0, {}, {}});
    if (bucket->divides_gradients()) bucket->drop_gradients();
  }
  if (sums.empty() && !is_last) return;
  advance(most_in_flight - 1);
  for (Sum& sum : sums) scatter(sum);
  started_.push_back(std::move(sums));
  poll();
}

// Leaves `most` layers on their way in the first sum, and as many in the second. At a fixed place,
// not when the pieces happen to be here: the order of calls and the memory are then the same in
// every run.
void Gradients::advance(std::size_t most) {
  const auto reduce_next = [&](std::size_t& done, std::size_t at) {
    for (Sum& sum : started_[done])
      if (at == 0 || sum.at < sum.count()) reduce(sum);
    ++done;
  };
  while (summed_ - reduced_ > most) reduce_next(reduced_, 1);
  while (started_.size() - summed_ > most) reduce_next(summed_, 0);
  if (most == 0)
    while (reduced_ < summed_) reduce_next(reduced_, 1);
}

void Gradients::scatter(Sum& sum) {
  if (sum.bucket->sums.empty()) return;
  const Slices& slices = sum.slices();
  const std::size_t ranks = slices.group.size();
  const std::int64_t slice = slices.end() - slices.begin();
  const PurposeScope of_part(parts::buffers);
  sum.received = Tensor::empty({std::int64_t(ranks - 1), slice}, sum.bucket->type, mesh_->device());
  std::vector<ConstBytes> send(ranks, ConstBytes{});
  std::vector<Bytes> receive(ranks, Bytes{});
  for (std::size_t i = 0, row = 0; i < ranks; ++i) {
    if (i == slices.self) continue;
    send[i] = bytes_of(sum.terms().rows(slices.bounds[i], slices.bounds[i + 1]));
    receive[i] = bytes_of(sum.received.rows(std::int64_t(row), std::int64_t(row) + 1));
    ++row;
  }
  sum.pending = mesh_->communicator().exchange(slices.group, sum.bucket->call("scatter_gradients"),
                                               std::move(send), std::move(receive));
}

// Ends the sum under way and starts what comes next: another sum, or the way back.
void Gradients::reduce(Sum& sum) {
  Bucket& bucket = *sum.bucket;
  if (bucket.sums.empty()) {
    const Tensor all[] = {bucket.own};
    return backend(bucket.own).reduce(bucket.own, all, squares_[bucket.squares]);
  }
  sum.pending->wait();
  sum.pending.reset();
  const Slices& slices = sum.slices();
  const bool is_of_owners = sum.is_of_owners();
  const Tensor mine = sum.terms().rows(slices.begin(), slices.end());
  const Tensor to = is_of_owners ? bucket.own : mine;
  std::vector<Tensor> terms;
  if (is_of_owners && bucket.adds) terms.push_back(bucket.own);
  for (std::size_t i = 0, row = 0; i < slices.group.size(); ++i) {
    const auto r = std::int64_t(row);
    terms.push_back(i == slices.self ? mine : sum.received.rows(r, r + 1).reshaped({mine.size()}));
    row += i != slices.self;
  }
  ++sum.at;
  const bool ends = sum.at == sum.count();
  backend(to).reduce(to, terms, ends && sum.is_last ? squares_[bucket.squares] : unused_);
  bucket.adds = is_of_owners && bucket.divides_gradients();
  sum.received = {};
  if (bucket.divides_gradients()) sum.flat = {};
  if (!ends) return scatter(sum);
  if (!is_of_owners)
    sum.pending = bucket.gather(*mesh_, bucket.call("gather_gradients"), slices, bucket.own);
}

void Gradients::poll() {
  for (std::vector<Sum>& layer : started_)
    for (Sum& sum : layer)
      if (sum.pending) sum.pending->poll();
}

double Gradients::finish() {
  for (std::size_t l = 0; l < layers_.size(); ++l)
    require(layers_[l].is_started, "gradients: layer ", l, " of ", layers_.size(),
            " was not started");
  start_sums(of_two_stages_, true);
  advance(0);
  for (std::vector<Sum>& layer : started_)
    for (Sum& sum : layer)
      if (sum.pending) std::exchange(sum.pending, {})->wait();
  return norm();
}

void Gradients::share_values() {
  release_prefetched();
  each_bucket([this](Bucket& bucket) {
    require(bucket.values_pending == nullptr && bucket.holds == 0,
            "gradients: share_values() twice, and no wait, or while weights are used");
    if (bucket.is_shared() && !bucket.divides_weights()) bucket.gather_values(*mesh_);
  });
}

void Gradients::wait_for_values(Bucket& bucket) {
  if (!bucket.values_pending) return;
  std::exchange(bucket.values_pending, {})->wait();
  for (std::size_t i = 0; i < bucket.parameters.size(); ++i)
    bucket.parameters[i]->show_value(bucket.place(bucket.values, i));
}

void Gradients::wait_for_values() {
  each_bucket([this](Bucket& bucket) { wait_for_values(bucket); });
}

Gradients::Use Gradients::use(std::size_t layer, std::size_t next) {
  hold(layer);
  hold(next);
  release_prefetched();
  prefetched_ = next;
  if (layer < layers_.size())
    for (Bucket* bucket : layers_[layer].used) wait_for_values(*bucket);
  return {*this, layer};
}

void Gradients::hold(std::size_t layer) {
  if (layer >= layers_.size()) return;
  for (Bucket* bucket : layers_[layer].used)
    if (bucket->divides_weights() && bucket->holds++ == 0) bucket->gather_values(*mesh_);
}

void Gradients::release(std::size_t layer) {
  if (layer >= layers_.size()) return;
  for (Bucket* bucket : layers_[layer].used) {
    if (!bucket->divides_weights() || --bucket->holds > 0) continue;
    if (bucket->values_pending) std::exchange(bucket->values_pending, {})->wait();
    bucket->drop_values();
  }
}

void Gradients::release_prefetched() {
  if (const auto layer = std::exchange(prefetched_, {})) release(*layer);
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
