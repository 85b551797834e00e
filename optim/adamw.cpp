#include "optim/adamw.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace pf {

AdamW::AdamW(const config::Optimizer& c, const std::function<void(const Visitor&)>& visit)
    : beta1_(c.beta1()), beta2_(c.beta2()), eps_(c.eps()) {
  std::set<const Parameter*> packed;
  const auto moment = [](const Parameter& w) {
    return Tensor::zeros(w.shape(), w.value().dtype(), w.value().device(), w.label());
  };
  const auto add = [&](Pack* pack, const std::vector<Parameter*>& parameters) {
    Group group{pack, decay_of(*parameters[0], c), parameters, {}, {}};
    for (const Parameter* w : parameters) {
      group.first.push_back(moment(*w));
      group.second.push_back(moment(*w));
    }
    groups_.push_back(std::move(group));
  };
  const auto is_trainable = [](const Parameter* w) { return w->is_trainable(); };
  visit({.pack = [&](Pack& pack) {
    const auto decays_alike = [&](const Parameter* w) {
      return decay_of(*w, c) == decay_of(*pack.parts()[0], c);
    };
    if (!std::ranges::all_of(pack.parts(), is_trainable)) return;
    if (!std::ranges::all_of(pack.parts(), decays_alike)) return;
    add(&pack, pack.parts());
    packed.insert(pack.parts().begin(), pack.parts().end());
  }});
  visit({.parameter = [&](Parameter& w) {
    if (w.is_trainable() && !packed.contains(&w)) add(nullptr, {&w});
  }});
}

void AdamW::step(double lr, double gradient_scale) {
  ++steps_;
  for (Group& group : groups_) {
    AdamWStep step{lr, beta1_, beta2_, eps_, group.decay};
    step.correction1 = 1 - std::pow(beta1_, double(steps_));
    step.correction2 = 1 - std::pow(beta2_, double(steps_));
    step.gradient_scale = gradient_scale;
    std::vector<AdamWTensor> tensors;
    for (std::size_t i = 0; i < group.parameters.size(); ++i) {
      Parameter& w = *group.parameters[i];
      tensors.push_back({w.value(), group.first[i], group.second[i], w.gradient()});
      w.changed();
    }
    Device& device = tensors[0].value.device();
    Packed* packed = group.pack != nullptr ? group.pack->copies() : nullptr;
    const auto bytes = std::int64_t(device.backend().adamw_workspace(tensors, packed));
    device.backend().adamw(tensors, step, packed, Tensor::empty({bytes}, DType::u8, device));
    if (packed != nullptr) group.pack->rebuilt();
  }
}

}  // namespace pf
