#include "launch/encoder_pool.h"

#include <chrono>
#include <utility>

#include "launch/signals.h"

namespace pf {
namespace {

std::uint64_t bytes_of(const Piece& piece) {
  std::uint64_t bytes = 0;
  for (const Stretch& part : piece) bytes += part.end - part.begin;
  return bytes;
}

}  // namespace

EncoderPool::EncoderPool(const std::vector<Source>& sources, const Tokenizer& tokenizer,
                         const EncoderPoolOptions& options)
    : sources_(sources),
      tokenizer_(tokenizer),
      options_(options),
      limit_(3 * options.piece_bytes * std::uint64_t(options.threads)),
      cutter_(sources, options.piece_bytes) {}

EncoderPool::~EncoderPool() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  has_room_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

// Not in the constructor: when a thread can't be started, those before it are joined.
void EncoderPool::start() {
  for (int i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { work(); });
}

std::optional<EncodedPiece> EncoderPool::next() {
  std::unique_lock lock(mutex_);
  while (pending_signal() == 0 && !results_.contains(taken_)) {
    if (pieces_ && taken_ == *pieces_) return std::nullopt;
    has_result_.wait_for(lock, std::chrono::milliseconds(50));
  }
  if (pending_signal() != 0) return std::nullopt;
  Result result = std::move(results_.extract(taken_).mapped());
  ++taken_;
  in_flight_ -= result.bytes;
  lock.unlock();
  has_room_.notify_one();
  if (const auto* error = std::get_if<std::exception_ptr>(&result.value))
    std::rethrow_exception(*error);
  return std::get<EncodedPiece>(std::move(result.value));
}

void EncoderPool::work() {
  while (std::optional<Ticket> ticket = take_ticket()) {
    Result result{ticket->bytes, {}};
    try {
      result.value =
          encode_piece(sources_, std::move(ticket->piece), tokenizer_, options_.longest_document);
    } catch (...) {
      result.value = std::current_exception();
    }
    finish(ticket->number, std::move(result));
  }
}

std::optional<EncoderPool::Ticket> EncoderPool::take_ticket() {
  const std::lock_guard lock(cutting_);
  if (has_ended_) return std::nullopt;
  Ticket ticket{cut_, 0, {}};
  try {
    ticket.piece = cutter_.next();
  } catch (...) {
    has_ended_ = true;
    finish(ticket.number, {0, std::current_exception()});
    return std::nullopt;
  }
  if (ticket.piece.empty()) {
    end_after(cut_);
    return std::nullopt;
  }
  ++cut_;
  ticket.bytes = bytes_of(ticket.piece);
  if (!reserve(ticket.bytes)) return std::nullopt;
  return ticket;
}

// False: nobody wants it any more.
bool EncoderPool::reserve(std::uint64_t bytes) {
  std::unique_lock lock(mutex_);
  has_room_.wait(lock, [&] { return stops_ || in_flight_ == 0 || in_flight_ + bytes <= limit_; });
  in_flight_ += bytes;
  return !stops_;
}

void EncoderPool::finish(std::uint64_t number, Result result) {
  const std::lock_guard lock(mutex_);
  results_.emplace(number, std::move(result));
  has_result_.notify_one();
}

void EncoderPool::end_after(std::uint64_t pieces) {
  has_ended_ = true;
  const std::lock_guard lock(mutex_);
  pieces_ = pieces;
  has_result_.notify_one();
}

}  // namespace pf
