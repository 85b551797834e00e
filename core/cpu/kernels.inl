// All kernels of one instruction set, and their table. See kernels_v4.cpp for how it is included.
namespace {

#include "core/cpu/vector.inl"

#include "core/cpu/kernels_elementwise.inl"
#include "core/cpu/kernels_losses.inl"
#include "core/cpu/kernels_random.inl"
#include "core/cpu/kernels_routing.inl"
#include "core/cpu/kernels_rows.inl"

// Algorithm 2 of Loshchilov and Hutter 2019; each array is read and written once.
template <class A>
void adamw(const AdamWTensor& tensor, const AdamWStep& step, Bf16* copied, std::int64_t begin,
           std::int64_t end) {
  const A beta1 = A(step.beta1), rest1 = A(1 - step.beta1);
  const A beta2 = A(step.beta2), rest2 = A(1 - step.beta2);
  const A rate = A(step.lr / step.correction1), keep = A(1 - step.lr * step.decay);
  const A root_scale = A(1 / std::sqrt(step.correction2)), eps = A(step.eps);
  const A gradient_scale = A(step.gradient_scale);
  const Runs runs(tensor.value, tensor.first, tensor.second, tensor.gradient);
  runs(begin, end, [&](std::int64_t row, std::int64_t column, std::int64_t count) {
    A* w = at<A>(tensor.value, row, column);
    A *m = at<A>(tensor.first, row, column), *v = at<A>(tensor.second, row, column);
    const A* g = at<A>(tensor.gradient, row, column);
    sweep<A>(
        0, count, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          const Vector<A> grad = load<A>(g + c, n) * gradient_scale;
          const Vector<A> mean = load<A>(m + c, n) * beta1 + grad * rest1;
          const Vector<A> square = load<A>(v + c, n) * beta2 + grad * grad * rest2;
          const Vector<A> change = mean * rate / (square_root(square) * root_scale + eps);
          const Vector<A> next = load<A>(w + c, n) * keep - change;
          store<A>(m + c, mean, n);
          store<A>(v + c, square, n);
          store<A>(w + c, next, n);
          if (copied != nullptr) store<A>(copied + c, next, n);
        });
    if (copied != nullptr) copied += count;
  });
}

template <class T>
constexpr Kernels table() {
  using A = Sum<T>;
  return {.copy = copy<T>,
          .add = add<T>,
          .scale = scale<T>,
          .normal = normal<A>,
          .activation = activation<T>,
          .activation_backward = activation_backward<T>,
          .dot = dot<T>,
          .reduce = reduce<T>,
          .adamw = adamw<A>,
          .swiglu = swiglu<T>,
          .swiglu_backward = swiglu_backward<T>,
          .dropout = dropout<T>,
          .embedding = embedding<T>,
          .rms_norm = rms_norm<T>,
          .rms_norm_backward = rms_norm_backward<T>,
          .layer_norm = layer_norm<T>,
          .layer_norm_backward = layer_norm_backward<T>,
          .add_row = add_row<T>,
          .join_heads = join_heads<T>,
          .join_heads_backward = join_heads_backward<T>,
          .rope = rope<T>,
          .sum_rows = sum_rows<T>,
          .route = route<A>,
          .route_backward = route_backward<A>,
          .row_max = row_max<T>,
          .loss_parts = loss_parts<T>,
          .loss_parts_backward = loss_parts_backward<T>,
          .cross_entropy = cross_entropy<A>,
          .cross_entropy_backward = cross_entropy_backward<A>,
          .segment_sum_backward = segment_sum_backward<T>,
          .normalise_rows = normalise_rows<T>,
          .square_sum = square_sum<T>,
          .square_sum_backward = square_sum_backward<T>,
          .embedding_backward = embedding_backward<T>,
          .add_row_backward = add_row_backward<T>,
          .segment_sum = segment_sum<T>,
          .add_sums = add_sums<A>};
}

}  // namespace

const Kernels& kernels(DType type) {
  static constexpr Kernels tables[] = {table<double>(), table<float>(), table<Bf16>()};
  return tables[std::size_t(type)];
}
