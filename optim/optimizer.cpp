#include "optim/optimizer.h"

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

double decay_of(const Parameter& w, const config::Optimizer& config) {
  return decays(w.role(), config.decays()) ? config.weight_decay() : 0;
}

}  // namespace pf
