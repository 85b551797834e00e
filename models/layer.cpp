#include "models/layer.h"

#include "core/adapter.h"

namespace pf {

void Layer::visit(const Visitor& visitor) {
  visit_parts({.parameter =
                   [&](Parameter& w) {
                     visitor.parameter(w);
                     if (w.adapter() == nullptr) return;
                     visitor.parameter(w.adapter()->a);
                     visitor.parameter(w.adapter()->b);
                   },
               .pack = visitor.pack});
}

}  // namespace pf
