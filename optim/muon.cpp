#include "optim/muon.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "optim/sgd.h"
#include "parallel/collectives.h"

namespace pf {
namespace {

constexpr double a = 3.4445, b = -4.7750, c = 2.0315;
constexpr int iterations = 5;
constexpr double smallest_norm = 1e-7;
constexpr double rms_of_adamw = 0.2;

Tensor workspace(std::size_t bytes, Device& device) {
  return Tensor::empty({std::int64_t(bytes)}, DType::u8, device);
}

Packed packed(const Tensor& w) {
  Packed out{1, w.columns(), w.rows(), w.dtype(), {w}, {}, {}};
  require(w.device().backend().packed_bytes(out) == 0, "muon: products of ", w.text(),
          " want blocked copies; matrices are f32 or f64");
  return out;
}

// x w'
Tensor times_transposed(const Tensor& x, const Tensor& w) {
  const Packed p = packed(w);
  Tensor y = Tensor::empty({x.rows(), w.rows()}, x.dtype(), x.device());
  const std::int64_t counts[] = {x.rows()};
  Backend& on = backend(x);
  on.product(y, x, p, counts, workspace(on.product_workspace(x.rows(), p), x.device()));
  return y;
}

// x w
Tensor times(const Tensor& x, const Tensor& w) {
  const Packed p = packed(w);
  Tensor y = Tensor::empty({x.rows(), w.columns()}, x.dtype(), x.device());
  const std::int64_t counts[] = {x.rows()};
  Backend& on = backend(x);
  on.product_input_gradient(y, x, p, counts,
                            workspace(on.product_workspace(x.rows(), p), x.device()));
  return y;
}

// x' x
Tensor gram_of_columns(const Tensor& x) {
  Tensor y = Tensor::empty({x.columns(), x.columns()}, x.dtype(), x.device());
  const Packed p = packed(y);
  const std::int64_t counts[] = {x.rows()};
  const GradientTarget target[] = {{y, false}};
  Backend& on = backend(x);
  on.product_weight_gradient(target, x, x, p, counts,
                             workspace(on.product_workspace(x.rows(), p), x.device()));
  return y;
}

Axes axes_with(const Label& label, Spread cut) {
  Axes out;
  for (const Axis axis : axes_of(label.view))
    if (label[axis] == cut) out.push_back(axis);
  return out;
}

// The whole matrix of which this rank holds `x`, cut like w.
Tensor gathered(const Tensor& x, const Parameter& w, const Mesh& mesh) {
  const auto gather = [&](const Tensor& block, const Axes& set) {
    const std::vector<std::int64_t> rows(std::size_t(mesh.size(set)), block.rows());
    return gather_rows(block, rows, Move{"gather_matrix", mesh, set, x.label()});
  };
  Tensor whole = x;
  if (const Axes set = axes_with(w.label(), Spread::columns); mesh.size(set) > 1) {
    const Tensor blocks = gather(x, set);
    const std::int64_t ranks = mesh.size(set), rows = x.rows(), columns = x.columns();
    whole = Tensor::empty({rows, ranks * columns}, x.dtype(), x.device());
    for (std::int64_t r = 0; r < ranks; ++r)
      backend(x).copy(whole.columns(r * columns, (r + 1) * columns),
                      blocks.rows(r * rows, (r + 1) * rows));
  }
  if (const Axes set = axes_with(w.label(), Spread::rows); mesh.size(set) > 1)
    whole = gather(whole, set);
  return whole;
}

}  // namespace

Tensor orthogonal(const Tensor& x) {
  const bool is_tall = x.rows() > x.columns();
  const Tensor square = Tensor::empty({}, accumulation(x.dtype()), x.device());
  backend(x).dot(square, x, x, 1);
  Tensor y = Tensor::like(x);
  backend(x).scale(y, x, 1 / (std::sqrt(square.item()) + smallest_norm));
  for (int i = 0; i < iterations; ++i) {
    const Tensor gram = is_tall ? gram_of_columns(y) : times_transposed(y, y);
    const Tensor step = times(gram, gram);
    change(step, c, gram, b);
    const Tensor next = is_tall ? times(y, step) : times(step, y);
    change(next, 1, y, a);
    y = next;
  }
  return y;
}

Muon::Muon(const config::Optimizer& config, const Mesh& mesh, const std::vector<Part>& parts,
           const Visit& visit)
    : mesh_(&mesh),
      momentum_(config.momentum()),
      nesterov_(config.nesterov()),
      store_(config.offload()),
      rest_(
          config,
          [&] {
            std::vector<Part> rest;
            for (const Part& part : parts)
              if (!needs_matrices(*part.parameter, config)) rest.push_back(part);
            return rest;
          }(),
          visit) {
  for (const Part& part : parts) {
    const Parameter& w = *part.parameter;
    if (!needs_matrices(w, config)) continue;
    const std::int64_t size = w.shape()[-2] * w.shape()[-1];
    require(part.begin % size == 0 && part.size() % size == 0, "muon: elements ", part.begin,
            " to ", part.end, " of ", w.name(), " ", w.shape(), " are no whole matrices");
    owned_.push_back(
        {part, decay_of(w, config), store_.zeros({part.size()}, w.type(), part.value().device())});
  }
}

void Muon::visit_states(const VisitState& visit) const {
  for (const Owned& owned : owned_) visit("velocity", owned.part, owned.velocity);
  rest_.visit_states(visit);
}

void Muon::step(double lr, double gradient_scale) {
  for (const Owned& owned : owned_) {
    Parameter& w = *owned.part.parameter;
    const std::int64_t rows = w.shape()[-2], columns = w.shape()[-1];
    const Tensor velocity = owned.velocity.load();
    const Tensor u =
        with_momentum(velocity, owned.part.gradient(), gradient_scale, momentum_, nesterov_);
    owned.velocity.save(velocity);
    const Tensor value = owned.part.value();
    for (std::int64_t begin = 0; begin < u.size(); begin += rows * columns) {
      const auto matrix = [&](const Tensor& x) {
        return x.rows(begin, begin + rows * columns).reshaped({rows, columns});
      };
      change_matrix(w, matrix(value), matrix(u), 1 - lr * owned.decay, lr);
    }
    w.changed();
  }
  rest_.step(lr, gradient_scale);
}

void Muon::change_matrix(const Parameter& w, const Tensor& value, const Tensor& u, double keep,
                         double lr) const {
  const Tensor whole = orthogonal(gathered(u, w, *mesh_));
  const auto dims = std::size_t(w.shape().dims());
  const std::int64_t row = w.block().begin[dims - 2], column = w.block().begin[dims - 1];
  const Tensor own = whole.rows(row, row + value.rows()).columns(column, column + value.columns());
  backend(u).copy(u, own);
  const auto longest = double(std::max(whole.rows(), whole.columns()));
  change(value, keep, u, -lr * rms_of_adamw * std::sqrt(longest));
}

}  // namespace pf
