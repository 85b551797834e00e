#include "optim/optimizer.h"

#include "optim/adamw.h"
#include "optim/muon.h"
#include "optim/sgd.h"

namespace pf {
namespace {

bool decays(Role role, const config::DecayedRoles& c) {
  switch (role) {
    case Role::matrix:
      return c.matrix();
    case Role::embedding:
      return c.embedding();
    case Role::head:
      return c.head();
    case Role::router:
      return c.router();
    case Role::norm:
      return c.norm();
    case Role::bias:
      return c.bias();
  }
  return false;
}

}  // namespace

std::unique_ptr<Optimizer> make_optimizer(const config::Optimizer& config, const Mesh& mesh,
                                          const std::vector<Part>& parts, const Visit& visit) {
  switch (config.kind()) {
    case config::Optimizer::adamw:
      return std::make_unique<AdamW>(config, parts, visit);
    case config::Optimizer::sgd:
      return std::make_unique<Sgd>(config, parts);
    case config::Optimizer::muon:
      return std::make_unique<Muon>(config, mesh, parts, visit);
  }
  return nullptr;
}

std::vector<Part> whole_parts(const Visit& visit) {
  std::vector<Part> parts;
  visit({.parameter = [&](Parameter& w) {
    if (w.is_trainable()) parts.push_back({&w, 0, w.size()});
  }});
  return parts;
}

double decay_of(const Parameter& w, const config::Optimizer& config) {
  return decays(w.role(), config.decays()) ? config.weight_decay() : 0;
}

bool needs_matrices(const Parameter& w, const config::Optimizer& config) {
  return config.kind() == config::Optimizer::muon && w.role() == Role::matrix &&
         w.whole().dims() > 1;
}

}  // namespace pf
