#include "optim/adamw.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace pf {
namespace {

// Of a part; whole ones have their shape, by which packs are rebuilt.
Tensor shaped(const Part& part, const Tensor& x) {
  return part.is_whole() ? x.reshaped(part.parameter->shape()) : x;
}

}  // namespace

AdamW::AdamW(const config::Optimizer& c, const std::vector<Part>& parts, const Visit& visit)
    : beta1_(c.beta1()), beta2_(c.beta2()), eps_(c.eps()), store_(c.offload()) {
  std::map<const Parameter*, Part> left;
  for (const Part& part : parts) left[part.parameter] = part;
  visit({.pack = [&](Pack& pack) {
    const double decay = decay_of(*pack.parts()[0], c);
    std::vector<Part> of_pack;
    for (const Parameter* w : pack.parts()) {
      const auto found = left.find(w);
      if (found == left.end() || !found->second.is_whole() || decay_of(*w, c) != decay) return;
      of_pack.push_back(found->second);
    }
    add(&pack, of_pack, decay);
    for (const Parameter* w : pack.parts()) left.erase(w);
  }});
  for (const Part& part : parts)
    if (left.contains(part.parameter)) add(nullptr, {part}, decay_of(*part.parameter, c));
}

void AdamW::add(Pack* pack, const std::vector<Part>& parts, double decay) {
  Group group{pack, decay, parts, {}, {}};
  for (const Part& part : parts) {
    const Tensor value = shaped(part, part.value());
    for (auto* moments : {&group.first, &group.second})
      moments->push_back(store_.zeros(value.shape(), value.dtype(), value.device(), value.label()));
  }
  groups_.push_back(std::move(group));
}

void AdamW::visit_states(const VisitState& visit) const {
  for (const Group& group : groups_)
    for (std::size_t i = 0; i < group.parts.size(); ++i) {
      visit("first_moment", group.parts[i], group.first[i]);
      visit("second_moment", group.parts[i], group.second[i]);
    }
}

void AdamW::step(double lr, double gradient_scale) {
  ++steps_;
  for (Group& group : groups_) {
    AdamWStep step{lr, beta1_, beta2_, eps_, group.decay};
    step.correction1 = 1 - std::pow(beta1_, double(steps_));
    step.correction2 = 1 - std::pow(beta2_, double(steps_));
    step.gradient_scale = gradient_scale;
    std::vector<AdamWTensor> tensors;
    for (std::size_t i = 0; i < group.parts.size(); ++i) {
      const Part& part = group.parts[i];
      tensors.push_back({shaped(part, part.value()), group.first[i].load(), group.second[i].load(),
                         shaped(part, part.gradient())});
      part.parameter->changed();
    }
    Device& device = tensors[0].value.device();
    Packed* packed = group.pack != nullptr ? group.pack->copies() : nullptr;
    const auto bytes = std::int64_t(device.backend().adamw_workspace(tensors, packed));
    device.backend().adamw(tensors, step, packed, Tensor::empty({bytes}, DType::u8, device));
    if (packed != nullptr) group.pack->rebuilt();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      group.first[i].save(tensors[i].first);
      group.second[i].save(tensors[i].second);
    }
  }
}

}  // namespace pf
