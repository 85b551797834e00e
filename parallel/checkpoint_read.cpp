#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <optional>

#include "core/error.h"
#include "parallel/checkpoint_boxes.h"
#include "parallel/checkpoint_files.h"
#include "parallel/checkpoint_format.h"
#include "parallel/checkpoint_index.h"
#include "parallel/checksum.h"
#include "parallel/disk_file.h"
#include "parallel/hdf5.h"

namespace pf {
namespace {

constexpr std::int64_t verify_bytes = 16 << 20;  // read at once
// Runs that lie as near to each other as the second are read together, up to the first.
constexpr std::int64_t together_bytes = 4 << 20, gap_bytes = 64 << 10;
constexpr int most_open = 256;  // parts; a process may have some 1,000 files open

std::vector<std::byte> content_of(const std::string& path) {
  const DiskFile file = DiskFile::open(path);
  std::vector<std::byte> bytes(std::size_t(file.size()));
  file.read(bytes, 0);
  return bytes;
}

void require_checksum(const std::string& found, const std::string& wanted,
                      const std::string& path) {
  require(found == wanted, path, ": is damaged: its checksum is ", found, "; ", checkpoint_sums,
          " has ", wanted);
}

// A part's data, one type after the other: f32, f64.
class PartData {
 public:
  explicit PartData(std::string path, bool stays_open) : path_(std::move(path)) {
    const Hdf5Lock lock;
    const Hdf5Handle file = open_hdf5_file(path_);
    for (DType type : {DType::f32, DType::f64}) places_[kind(type)] = place(file, name(type));
    if (stays_open) file_ = DiskFile::open(path_);
  }

  // Elements [begin, begin + bytes.size() / size) of those of `type`.
  void read(DType type, std::int64_t begin, std::span<std::byte> bytes) const {
    const Place& place = places_[kind(type)];
    const auto size = std::int64_t(size_of(type));
    require(begin * size + std::int64_t(bytes.size()) <= place.elements * size, path_, ": ",
            place.elements, " elements of ", name(type), "; wanted ", bytes.size() / size_of(type),
            " from ", begin, " on");
    const std::int64_t at = place.offset + begin * size;
    if (file_)
      file_->read(bytes, at);
    else
      DiskFile::open(path_).read(bytes, at);
  }

 private:
  struct Place {
    std::int64_t offset = 0, elements = 0;
  };

  static std::size_t kind(DType type) { return type == DType::f64 ? 1 : 0; }

  Place place(const Hdf5Handle& file, const char* name) const {
    if (check_hdf5(H5Lexists(file.id(), name, H5P_DEFAULT), path_, "read") == 0) return {};
    const Hdf5Handle dataset = dataset_handle(H5Dopen2(file.id(), name, H5P_DEFAULT), path_);
    const Hdf5Handle space = space_handle(H5Dget_space(dataset.id()), path_);
    const haddr_t offset = H5Dget_offset(dataset.id());
    require(offset != HADDR_UNDEF, path_, ": ", name, " has no place in the file");
    return {std::int64_t(offset),
            check_hdf5(H5Sget_simple_extent_npoints(space.id()), path_, "read")};
  }

  std::string path_;
  std::array<Place, 2> places_;
  std::optional<DiskFile> file_;
};

// Copies the runs of one box of a part; they come in the part's order.
class RunReader {
 public:
  RunReader(const PartData& part, DType type, std::int64_t at, std::byte* to)
      : part_(part), type_(type), size_(std::int64_t(size_of(type))), at_(at), to_(to) {}

  void read(const std::vector<Run>& runs) {
    for (auto run = runs.begin(); run != runs.end();) {
      auto end = run + 1;
      while (end != runs.end() && is_near(*run, end[-1], *end)) ++end;
      read(std::span(run, end));
      run = end;
    }
  }

 private:
  bool is_near(const Run& first, const Run& last, const Run& next) const {
    return (next.from - last.from - last.size) * size_ <= gap_bytes &&
           (next.from + next.size - first.from) * size_ <= together_bytes;
  }

  void read(std::span<const Run> runs) {
    const Run& first = runs.front();
    const std::int64_t span = runs.back().from + runs.back().size - first.from;
    if (runs.size() == 1)
      return part_.read(type_, at_ + first.from, {to_ + first.to * size_, bytes(span)});
    buffer_.resize(bytes(span));
    part_.read(type_, at_ + first.from, buffer_);
    for (const Run& run : runs)
      std::memcpy(to_ + run.to * size_, buffer_.data() + (run.from - first.from) * size_,
                  bytes(run.size));
  }

  std::size_t bytes(std::int64_t elements) const { return std::size_t(elements * size_); }

  const PartData& part_;
  DType type_;
  std::int64_t size_, at_;
  std::byte* to_;
  std::vector<std::byte> buffer_;
};

}  // namespace

struct Checkpoint::Files {
  struct Part {
    FileChecksum sum;
    std::once_flag is_open;
    std::optional<PartData> data;
  };

  explicit Files(std::string from) : folder(std::move(from)) {
    const std::string sums_path = path(checkpoint_sums), master_path = path(checkpoint_master);
    const std::vector<std::byte> lines = content_of(sums_path);
    std::vector<FileChecksum> sums = parse_checksum_lines(
        {reinterpret_cast<const char*>(lines.data()), lines.size()}, sums_path);
    for (std::size_t number = 0; number < sums.size(); ++number) {
      const bool is_last = number + 1 == sums.size();
      const std::string wanted = is_last ? checkpoint_master : checkpoint_part(int(number));
      require(sums[number].file == wanted, sums_path, ": line ", number + 1, " is of ",
              sums[number].file, "; wanted ", wanted);
    }
    require(sums.size() > 1, sums_path, ": ", sums.size(), " lines; wanted those of a part and of ",
            checkpoint_master);
    const std::vector<std::byte> master = content_of(master_path);
    require_checksum(checksum_of(master), sums.back().checksum, master_path);
    sums.pop_back();
    index = read_index(master, master_path);
    require(index.part_checksums == checksum_lines(sums), sums_path,
            ": its checksums of parts are not those in ", checkpoint_master);
    require(index.part_bytes.size() == sums.size(), master_path, ": ", index.part_bytes.size(),
            " parts; ", checkpoint_sums, " has ", sums.size());
    parts = std::vector<Part>(sums.size());
    for (std::size_t part = 0; part < sums.size(); ++part) {
      parts[part].sum = sums[part];
      require_size(int(part), DiskFile::open(path(sums[part].file)));
    }
  }

  std::string path(const std::string& file) const { return folder + '/' + file; }

  void require_size(int part, const DiskFile& file) const {
    const std::int64_t wanted = index.part_bytes[std::size_t(part)];
    require(file.size() == wanted, file.path(), ": ", file.size(), " bytes; ", checkpoint_master,
            " has ", wanted);
  }

  const PartData& data_of(int number) {
    require(number >= 0 && std::size_t(number) < parts.size(), path(checkpoint_master), ": names ",
            checkpoint_part(number), "; there are ", parts.size(), " parts");
    Part& part = parts[std::size_t(number)];
    std::call_once(part.is_open,
                   [&] { part.data.emplace(path(part.sum.file), number < most_open); });
    return *part.data;
  }

  std::string folder;
  CheckpointIndex index;
  std::vector<Part> parts;
};

Checkpoint::Checkpoint(std::string folder) : files_(std::make_unique<Files>(std::move(folder))) {
  require(facts().counts.contains("step"), files_->path(checkpoint_master), ": has no step");
}

Checkpoint::~Checkpoint() = default;

const std::string& Checkpoint::folder() const {
  return files_->folder;
}

const CheckpointFacts& Checkpoint::facts() const {
  return files_->index.facts;
}

std::int64_t Checkpoint::step() const {
  return facts().counts.at("step");
}

const std::vector<SavedTensor>& Checkpoint::tensors() const {
  return files_->index.tensors;
}

const SavedTensor* Checkpoint::find(const std::string& tensor) const {
  const auto at = std::ranges::lower_bound(tensors(), tensor, {}, &SavedTensor::name);
  return at != tensors().end() && at->name == tensor ? &*at : nullptr;
}

int Checkpoint::parts() const {
  return int(files_->parts.size());
}

std::string Checkpoint::name_of_part(int part) const {
  return files_->parts[std::size_t(part)].sum.file;
}

std::int64_t Checkpoint::bytes_of_part(int part) const {
  return files_->index.part_bytes[std::size_t(part)];
}

void Checkpoint::verify(int part) const {
  const FileChecksum& sum = files_->parts[std::size_t(part)].sum;
  const DiskFile file = DiskFile::open(files_->path(sum.file));
  files_->require_size(part, file);
  const std::int64_t size = bytes_of_part(part);
  std::vector<std::byte> buffer(std::size_t(std::min(size, verify_bytes)));
  Checksum checksum;
  for (std::int64_t at = 0; at < size; at += verify_bytes) {
    const std::span read = std::span(buffer).first(std::size_t(std::min(verify_bytes, size - at)));
    file.read(read, at);
    checksum.add(read);
  }
  require_checksum(checksum.text(), sum.checksum, file.path());
}

void Checkpoint::read(const std::string& tensor, const Shape& whole, const Block& box,
                      const Tensor& to) const {
  const std::string path = files_->path(checkpoint_master);
  const SavedTensor* saved = find(tensor);
  require(saved != nullptr, path, ": has no ", tensor);
  require(saved->shape == whole && saved->type == to.dtype(), path, ": ", tensor, " is ",
          name(saved->type), ' ', saved->shape, "; wanted ", name(to.dtype()), ' ', whole);
  require(is_within(box, whole) && to.size() == box.extents.size() && to.is_contiguous() &&
              to.device().kind() == DeviceKind::cpu,
          path, ": ", tensor, ' ', whole, ": a box ", box.extents, " for ", to.text());
  std::int64_t found = 0;
  for (const BoxSource& source : files_->index.sources[std::size_t(saved - tensors().data())]) {
    const Block shared = intersection(source.box, box);
    if (is_empty(shared)) continue;
    RunReader(files_->data_of(source.part), to.dtype(), source.at,
              static_cast<std::byte*>(to.raw()))
        .read(runs_of(shared, source.box, box));
    found += shared.extents.size();
  }
  require(found == box.extents.size(), path, ": ", tensor, ": ", found, " elements of a box ",
          box.extents, " are in parts");
}

}  // namespace pf
