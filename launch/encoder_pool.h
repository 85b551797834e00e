// Threads that encode pieces, whose results come in the order of the input.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <variant>
#include <vector>

#include "launch/encode_piece.h"
#include "launch/pieces.h"
#include "models/tokenizer.h"

namespace pf {

struct EncoderPoolOptions {
  int threads = 1;
  std::uint64_t piece_bytes = 0;
  std::int64_t longest_document = 0;
};

// Pieces wait to be cut while those that nobody took yet have three times `piece_bytes` a thread.
class EncoderPool {
 public:
  EncoderPool(const std::vector<Source>& sources, const Tokenizer& tokenizer,
              const EncoderPoolOptions& options);
  ~EncoderPool();  // waits for the pieces that are being encoded
  EncoderPool(const EncoderPool&) = delete;
  EncoderPool& operator=(const EncoderPool&) = delete;

  void start();  // once

  // The next piece; nothing after the last, or once a signal is pending. Throws what its encoding
  // threw: of several errors, the first in the order of the input.
  std::optional<EncodedPiece> next();

 private:
  struct Result {
    std::uint64_t bytes = 0;
    std::variant<EncodedPiece, std::exception_ptr> value;
  };
  struct Ticket {
    std::uint64_t number = 0, bytes = 0;
    Piece piece;
  };

  void work();
  std::optional<Ticket> take_ticket();
  bool reserve(std::uint64_t bytes);
  void finish(std::uint64_t number, Result result);
  void end_after(std::uint64_t pieces);

  const std::vector<Source>& sources_;
  const Tokenizer& tokenizer_;
  EncoderPoolOptions options_;
  std::uint64_t limit_;

  std::mutex
      cutting_;  // held while a piece is cut and waits for room, so that those before it go first
  PieceCutter cutter_;
  std::uint64_t cut_ = 0;  // pieces
  bool has_ended_ = false;

  std::mutex mutex_;
  std::condition_variable has_room_, has_result_;
  std::map<std::uint64_t, Result> results_;
  std::uint64_t in_flight_ = 0;          // bytes
  std::uint64_t taken_ = 0;              // pieces
  std::optional<std::uint64_t> pieces_;  // all, once known
  bool stops_ = false;

  std::vector<std::thread> threads_;
};

}  // namespace pf
