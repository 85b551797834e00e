#include "parallel/collectives.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "core/backend.h"
#include "core/error.h"

namespace pf {
namespace {

Tensor buffer_like(const Tensor& x, const Shape& shape) {
  const PurposeScope of_part(parts::buffers);
  return Tensor::empty(shape, x.dtype(), x.device());
}

// Up to this size a sum is made by everybody from everything: one exchange instead of two.
constexpr std::size_t small_bytes = 16 << 10;

std::unique_ptr<Pending> start_exchange(const Tensor& x, std::vector<ConstBytes> send,
                                        std::vector<Bytes> receive, const Move& move) {
  const Call call{move.kind, move.set, x.dtype(), x.shape(), move.is_uneven, {}};
  return move.mesh.communicator().exchange(move.group(), call, std::move(send), std::move(receive));
}

void exchange(const Tensor& x, std::vector<ConstBytes> send, std::vector<Bytes> receive,
              const Move& move) {
  start_exchange(x, std::move(send), std::move(receive), move)->wait();
}

std::vector<ConstBytes> to_send(const std::vector<Tensor>& parts) {
  std::vector<ConstBytes> out;
  out.reserve(parts.size());
  for (const Tensor& part : parts) out.push_back(bytes_of(part));
  return out;
}

std::vector<Bytes> to_receive(const std::vector<Tensor>& parts) {
  std::vector<Bytes> out;
  out.reserve(parts.size());
  for (const Tensor& part : parts) out.push_back(bytes_of(part));
  return out;
}

// x cut into runs of rows.
std::vector<Tensor> cut(const Tensor& x, RowCounts rows) {
  std::vector<Tensor> parts;
  std::int64_t begin = 0;
  for (const std::int64_t count : rows) {
    parts.push_back(x.rows(begin, begin + count));
    begin += count;
  }
  return parts;
}

Shape with_rows(Shape shape, std::int64_t rows) {
  shape.set(0, rows);
  return shape;
}

// parts[i] on the way to the i-th rank, and what comes for this rank from each, as big as the part
// that it keeps, which is not copied.
struct Swap {
  std::vector<Tensor> came;
  std::unique_ptr<Pending> pending;
};
Swap start_swap(const Tensor& x, const std::vector<Tensor>& parts, const Move& move) {
  const auto self = std::size_t(move.self());
  const Tensor& own = parts[self];
  const auto others = std::int64_t(parts.size()) - 1;
  const Tensor buffer = buffer_like(x, {others, own.size()});
  std::vector<Tensor> came;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto row = std::int64_t(i) - (i > self);
    came.push_back(i == self ? own : buffer.rows(row, row + 1).reshaped(own.shape()));
  }
  auto send = to_send(parts);
  auto receive = to_receive(came);
  send[self] = receive[self] = {};
  return {came, start_exchange(x, std::move(send), std::move(receive), move)};
}

std::vector<Tensor> swap_parts(const Tensor& x, const std::vector<Tensor>& parts,
                               const Move& move) {
  Swap swap = start_swap(x, parts, move);
  swap.pending->wait();
  return swap.came;
}

// y = f(y, x) for each x after the first, in order, element by element. On the CPU.
template <class T, class F>
void fold(const Tensor& y, std::span<const Tensor> xs, F f) {
  if (y.is_meta()) return;
  require(y.device().kind() == DeviceKind::cpu, "collective: of ", y.text(), " on a GPU");
  T* to = y.data<T>();
  std::copy_n(xs[0].data<T>(), y.size(), to);
  for (const Tensor& x : xs.subspan(1)) {
    const T* from = x.data<T>();
    for (std::int64_t i = 0; i < y.size(); ++i) to[i] = f(to[i], from[i]);
  }
}

template <class T>
T larger(T a, T b) {
  if constexpr (std::is_same_v<T, Bf16>) {
    return Bf16(larger(float(a), float(b)));
  } else {
    return b > a || b != b ? b : a;  // not a number stays
  }
}

void largest(const Tensor& y, std::span<const Tensor> xs) {
  switch (y.dtype()) {
    case DType::f64:
      return fold<double>(y, xs, larger<double>);
    case DType::f32:
      return fold<float>(y, xs, larger<float>);
    case DType::bf16:
      return fold<Bf16>(y, xs, larger<Bf16>);
    case DType::i64:
      return fold<std::int64_t>(y, xs, larger<std::int64_t>);
    case DType::i32:
      return fold<std::int32_t>(y, xs, larger<std::int32_t>);
    case DType::u8:
      return fold<std::uint8_t>(y, xs, larger<std::uint8_t>);
  }
}

void sum(const Tensor& y, std::span<const Tensor> xs) {
  switch (y.dtype()) {
    case DType::i64:
      return fold<std::int64_t>(y, xs, std::plus<std::int64_t>());
    case DType::i32:
      return fold<std::int32_t>(y, xs, std::plus<std::int32_t>());
    case DType::u8:
      return fold<std::uint8_t>(y, xs, std::plus<std::uint8_t>());
    default:
      return backend(y).add(y, xs);
  }
}

// y = x where either may have a pitch.
void copy(const Tensor& y, const Tensor& x) {
  if (is_floating(x.dtype()) || x.is_meta()) return backend(y).copy(y, x);
  require(x.device().kind() == DeviceKind::cpu, "collective: of ", x.text(), " on a GPU");
  const std::size_t width = size_of(x.dtype());
  for (std::int64_t r = 0; r < x.rows(); ++r)
    std::memcpy(static_cast<std::byte*>(y.raw()) + std::size_t(r * y.pitch()) * width,
                static_cast<const std::byte*>(x.raw()) + std::size_t(r * x.pitch()) * width,
                std::size_t(x.columns()) * width);
}

std::vector<Tensor> everyone(const Tensor& x, const Move& move) {
  return std::vector<Tensor>(std::size_t(move.ranks()), x);
}

}  // namespace

std::span<const int> Move::group() const {
  const auto first = std::size_t(mesh.coordinate(set) - self());
  return std::span(mesh.group(set)).subspan(first, std::size_t(ranks()));
}

Tensor contiguous(const Tensor& x) {
  if (x.is_contiguous()) return x;
  const PurposeScope of_part(parts::buffers);
  Tensor y = Tensor::like(x);
  copy(y, x);
  return y;
}

Bytes bytes_of(const Tensor& x) {
  return {static_cast<std::byte*>(x.raw()), std::size_t(x.size()) * size_of(x.dtype())};
}

Started::Started(const Tensor& y, const Tensor& from, std::unique_ptr<Pending> pending,
                 std::vector<Tensor> parts)
    : y_(y), from_(from), parts_(std::move(parts)), pending_(std::move(pending)) {}

Tensor Started::wait() {
  if (pending_) pending_->wait();
  if (!parts_.empty()) sum(y_, parts_);
  return std::exchange(*this, {}).y_;
}

Started start_gather_rows(const Tensor& x, RowCounts rows, const Move& move) {
  const std::int64_t all = std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
  const Tensor from = contiguous(x);
  Tensor y = Tensor::empty(with_rows(x.shape(), all), x.dtype(), x.device(), move.label, move.kind);
  return {y, from,
          start_exchange(x, to_send(everyone(from, move)), to_receive(cut(y, rows)), move)};
}

Tensor gather_rows(const Tensor& x, RowCounts rows, const Move& move) {
  return start_gather_rows(x, rows, move).wait();
}

// An all-to-all of slices, a sum in rank order, a gather: twice the bytes of x, as in a ring.
Tensor sum_of_all(const Tensor& x, const Move& move) {
  const Tensor from = contiguous(x).reshaped({x.size()});
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device(), move.label, move.kind);
  const Tensor flat = y.reshaped({y.size()});
  if (bytes_of(from).size() <= small_bytes) {
    sum(flat, swap_parts(x, everyone(from, move), move));
    return y;
  }
  const std::int64_t aligned = 64, ranks = move.ranks();
  const std::int64_t share = (x.size() + ranks * aligned - 1) / (ranks * aligned) * aligned;
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < ranks; ++i)
    rows.push_back(std::clamp<std::int64_t>(x.size() - i * share, 0, share));
  const std::vector<Tensor> slices = cut(flat, rows);
  const Tensor& own = slices[std::size_t(move.self())];
  sum(own, swap_parts(x, cut(from, rows), move));
  exchange(x, to_send(everyone(own, move)), to_receive(slices), move);
  return y;
}

Started start_rows_of_sum(const Tensor& x, RowCounts rows, const Move& move) {
  const Tensor from = contiguous(x);
  const Shape shape = with_rows(x.shape(), rows[std::size_t(move.self())]);
  Tensor y = Tensor::empty(shape, x.dtype(), x.device(), move.label, move.kind);
  Swap swap = start_swap(x, cut(from, rows), move);
  return {y, from, std::move(swap.pending), std::move(swap.came)};
}

Tensor rows_of_sum(const Tensor& x, RowCounts rows, const Move& move) {
  return start_rows_of_sum(x, rows, move).wait();
}

Tensor largest_of_all(const Tensor& x, const Move& move) {
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device(), move.label, move.kind);
  largest(y, swap_parts(x, everyone(contiguous(x), move), move));
  return y;
}

Started start_swap_rows(const Tensor& x, RowCounts sent, RowCounts received, const Move& move) {
  const std::int64_t all = std::accumulate(received.begin(), received.end(), std::int64_t{0});
  const Tensor from = contiguous(x);
  Tensor y = Tensor::empty(with_rows(x.shape(), all), x.dtype(), x.device(), move.label, move.kind);
  return {y, from, start_exchange(x, to_send(cut(from, sent)), to_receive(cut(y, received)), move)};
}

Tensor swap_rows(const Tensor& x, RowCounts sent, RowCounts received, const Move& move) {
  return start_swap_rows(x, sent, received, move).wait();
}

Tensor swap_rows_for_columns(const Tensor& x, const Move& move) {
  const std::int64_t ranks = move.ranks(), rows = x.extent(0), width = x.extent(1) / ranks;
  // One run of columns after the other, so that each piece is one run of bytes.
  const Tensor packed = buffer_like(x, {rows * ranks, width});
  Tensor y = Tensor::empty({rows * ranks, width}, x.dtype(), x.device(), move.label, move.kind);
  const std::vector<std::int64_t> even(std::size_t(ranks), rows);
  const std::vector<Tensor> parts = cut(packed, even);
  for (std::int64_t i = 0; i < ranks; ++i)
    copy(parts[std::size_t(i)], x.columns(i * width, (i + 1) * width));
  exchange(x, to_send(parts), to_receive(cut(y, even)), move);
  return y;
}

Tensor swap_columns_for_rows(const Tensor& x, const Move& move) {
  const std::int64_t ranks = move.ranks(), rows = x.extent(0) / ranks, width = x.extent(1);
  const Tensor from = contiguous(x);
  const Tensor packed = buffer_like(x, x.shape());
  Tensor y = Tensor::empty({rows, width * ranks}, x.dtype(), x.device(), move.label, move.kind);
  const std::vector<std::int64_t> even(std::size_t(ranks), rows);
  const std::vector<Tensor> parts = cut(packed, even);
  exchange(x, to_send(cut(from, even)), to_receive(parts), move);
  for (std::int64_t i = 0; i < ranks; ++i)
    copy(y.columns(i * width, (i + 1) * width), parts[std::size_t(i)]);
  return y;
}

Tensor pass(const Tensor& x, int by, const Move& move) {
  const int ranks = move.ranks(), self = move.self();
  const auto place = [&](int i) { return std::size_t(((i % ranks) + ranks) % ranks); };
  const Tensor from = contiguous(x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device(), move.label, move.kind);
  std::vector<ConstBytes> send(std::size_t(ranks), ConstBytes{});
  std::vector<Bytes> receive(std::size_t(ranks), Bytes{});
  send[place(self + by)] = bytes_of(from);
  receive[place(self - by)] = bytes_of(y);
  exchange(x, std::move(send), std::move(receive), move);
  return y;
}

}  // namespace pf
