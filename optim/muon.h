// Momentum made orthogonal, for matrices; AdamW for the rest.
#pragma once

#include <vector>

#include "optim/adamw.h"

namespace pf {

// For each matrix of a parameter of role `matrix` (each expert has its own), whole as in the model,
// however tp and etp cut it (Jordan et al. 2024):
//   v <- momentum v + g,  u = v, or g + momentum v with nesterov,
//   w <- w (1 - lr decay) - lr 0.2 sqrt(max(rows, columns)) orthogonal(u)
// The factor gives changes the root mean square that AdamW's have, so that lr and decay serve both
// (Liu et al. 2025, equation 4). Ranks that hold slices of one matrix gather u over the axes that
// its label names and each keeps its slice of the result; replicas divide the matrices if gradients
// are shared (ZeRO), and repeat the work if they are not.
class Muon : public Optimizer {
 public:
  Muon(const config::Optimizer& config, const Mesh& mesh, const std::vector<Part>& parts,
       const Visit& visit);
  void step(double lr, double gradient_scale) override;
  std::int64_t steps_taken() const override { return rest_.steps_taken(); }
  void visit_states(const VisitState& visit) const override;
  void restored(std::int64_t steps_taken) override { rest_.restored(steps_taken); }

 private:
  struct Owned {
    Part part;  // whole matrices, as this rank holds them
    double decay = 0;
    StoredState velocity;  // [elements of the part]
  };

  void change_matrix(const Parameter& w, const Tensor& value, const Tensor& u, double keep,
                     double lr) const;

  const Mesh* mesh_;
  double momentum_;
  bool nesterov_;
  StateStore store_;
  std::vector<Owned> owned_;
  AdamW rest_;
};

// Near U V' of x = U S V' [rows, columns], f32 or f64: singular values come to be about 1 (0.7 to
// 1.2) by five steps of y <- a y + b (y y') y + c (y y')^2 y from y = x / |x|, with Jordan's a, b
// and c.
Tensor orthogonal(const Tensor& x);

}  // namespace pf
