#include "parallel/gradients.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "core/error.h"
#include "parallel/collectives.h"
#include "parallel/gradient_bucket.h"
#include "parallel/table.h"

namespace pf {
namespace {

constexpr std::size_t most_in_flight = 2;  // layers

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

Axes invariant_axes(const Label& label) {
  Axes out;
  for (const Axis a : axes_of(label.view))
    if (label[a] == Spread::invariant) out.push_back(a);
  return out;
}

}  // namespace

// A sum under way.
struct Gradients::Sum {
  GradientBucket* bucket = nullptr;
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

Gradients::Gradients(const Mesh& mesh, const std::vector<LayerWeights>& layers,
                     const Sharing& sharing,
                     const std::function<void(std::size_t layer)>& initialise)
    : mesh_(&mesh), layers_(layers.size()), unused_(Tensor::zeros({}, DType::f64, mesh.device())) {
  std::map<const Parameter*, GradientBucket*> bucket_with;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    if (initialise) initialise(l);
    Layer& layer = layers_[l];
    for (Parameter* p : layers[l].parameters) {
      GradientBucket*& bucket = bucket_with[p];
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
  each_bucket([](GradientBucket& bucket) {
    if (!bucket.divides_gradients()) return;
    for (Parameter* p : bucket.parameters) p->place_gradient_late({});
  });
}

void Gradients::each_bucket(const std::function<void(GradientBucket&)>& f) {
  for (const Layer& layer : layers_)
    for (const auto& bucket : layer.buckets) f(*bucket);
  for (const auto& bucket : of_two_stages_.buckets) f(*bucket);
}

// Parameters whose squares have one label are also summed over the same axes: they share a bucket.
GradientBucket& Gradients::bucket_of(Layer& layer, Parameter& p) {
  require(bool(p.value()), "gradients: parameter ", p.name(), " has no value; initialise() it");
  require(p.is_trainable(), "gradients: parameter ", p.name(), " is frozen; leave it out");
  const std::size_t squares = squares_of(p);
  auto& buckets = is_of_two_stages(summed_over(p.label())) ? of_two_stages_.buckets : layer.buckets;
  auto found = std::ranges::find_if(buckets, [&](const std::unique_ptr<GradientBucket>& bucket) {
    return bucket->squares == squares && bucket->type == p.type();
  });
  if (found == buckets.end())
    found = buckets.insert(found, std::make_unique<GradientBucket>(*mesh_, squares, p));
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
  each_bucket([](GradientBucket& bucket) {
    bucket.adds = false;
    if (bucket.divides_gradients()) bucket.drop_gradients();
    for (Parameter* p : bucket.parameters) p->clear_gradient();
  });
  for (const Squares& s : squares_) backend(s).fill(s, 0);
  started_.clear();
  summed_ = reduced_ = arrived_ = 0;
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
  GradientBucket& bucket = *sum.bucket;
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
  const auto has_arrived = [](const Sum& sum) { return sum.pending == nullptr; };
  while (arrived_ < reduced_ && std::ranges::all_of(started_[arrived_], has_arrived)) ++arrived_;
  for (std::size_t i = arrived_; i < started_.size(); ++i)
    for (const Sum& sum : started_[i])
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
  each_bucket([this](GradientBucket& bucket) {
    require(bucket.values_pending == nullptr && bucket.holds == 0,
            "gradients: share_values() twice, and no wait, or while weights are used");
    if (bucket.is_shared() && !bucket.divides_weights()) bucket.gather_values(*mesh_);
  });
}

void Gradients::wait_for_values(GradientBucket& bucket) {
  if (!bucket.values_pending) return;
  std::exchange(bucket.values_pending, {})->wait();
  for (std::size_t i = 0; i < bucket.parameters.size(); ++i)
    bucket.parameters[i]->show_value(bucket.place(bucket.values, i));
}

void Gradients::wait_for_values() {
  each_bucket([this](GradientBucket& bucket) { wait_for_values(bucket); });
}

Gradients::Use Gradients::use(std::size_t layer, std::size_t next) {
  hold(layer);
  hold(next);
  release_prefetched();
  prefetched_ = next;
  if (layer < layers_.size())
    for (GradientBucket* bucket : layers_[layer].used) wait_for_values(*bucket);
  return {*this, layer};
}

void Gradients::hold(std::size_t layer) {
  if (layer >= layers_.size()) return;
  for (GradientBucket* bucket : layers_[layer].used)
    if (bucket->divides_weights() && bucket->holds++ == 0) bucket->gather_values(*mesh_);
}

void Gradients::release(std::size_t layer) {
  if (layer >= layers_.size()) return;
  for (GradientBucket* bucket : layers_[layer].used) {
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
