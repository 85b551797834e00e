#include "parallel/checkpoint_index.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

#include "core/error.h"
#include "parallel/checkpoint_format.h"
#include "parallel/hdf5.h"

namespace pf {
namespace {

constexpr std::size_t digits_at = std::string_view("part-").size();

class MasterReader {
 public:
  MasterReader(std::span<const std::byte> bytes, const std::string& path)
      : path_(path), file_(open_hdf5_image(bytes, path)) {}

  CheckpointIndex read() {
    require_format();
    const auto add_attribute = [](hid_t, const char* name, const H5A_info_t*, void* names) {
      static_cast<std::vector<std::string>*>(names)->push_back(name);
      return herr_t{0};
    };
    std::vector<std::string> attributes;
    check(H5Aiterate2(file_.id(), H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, add_attribute,
                      &attributes));
    for (const std::string& name : attributes)
      if (name != format_attribute && name != format_version_attribute)
        index_.facts.counts[name] = count(name);
    for (const std::string& name : datasets()) add_dataset(name);
    require(!index_.part_bytes.empty(), path_, ": has no ", part_bytes);
    return std::move(index_);
  }

 private:
  std::int64_t check(std::int64_t result) const { return check_hdf5(result, path_, "read"); }

  void require_format() const {
    const bool is_ours = check(H5Aexists(file_.id(), format_attribute)) > 0 &&
                         check(H5Aexists(file_.id(), format_version_attribute)) > 0;
    require(is_ours && format() == format_name, path_, ": an HDF5 file that is no ", format_name);
    const std::int64_t version = count(format_version_attribute);
    require(version >= 1 && version <= checkpoint_format, path_, ": ", format_version_attribute,
            " is ", version, "; this program reads ", checkpoint_format,
            version > checkpoint_format ? ": take a newer one" : "");
  }

  std::string format() const {
    const Hdf5Handle attribute =
        attribute_handle(H5Aopen(file_.id(), format_attribute, H5P_DEFAULT), path_);
    const Hdf5Handle type = type_handle(H5Aget_type(attribute.id()), path_);
    std::string text(text_size(type), '\0');
    if (!text.empty()) check(H5Aread(attribute.id(), type.id(), text.data()));
    return text;
  }

  // 0 of what is no text of fixed length.
  std::size_t text_size(const Hdf5Handle& type) const {
    const bool is_text =
        H5Tget_class(type.id()) == H5T_STRING && check(H5Tis_variable_str(type.id())) == 0;
    return is_text ? H5Tget_size(type.id()) : 0;
  }

  std::int64_t count(const std::string& name) const {
    const Hdf5Handle attribute =
        attribute_handle(H5Aopen(file_.id(), name.c_str(), H5P_DEFAULT), path_);
    std::int64_t value = 0;
    check(H5Aread(attribute.id(), H5T_NATIVE_INT64, &value));
    return value;
  }

  std::vector<std::string> datasets() const {
    const auto add = [](hid_t, const char* name, const H5O_info_t* object, void* names) {
      if (object->type == H5O_TYPE_DATASET)
        static_cast<std::vector<std::string>*>(names)->push_back(name);
      return herr_t{0};
    };
    std::vector<std::string> names;
    check(H5Ovisit2(file_.id(), H5_INDEX_NAME, H5_ITER_NATIVE, add, &names, H5O_INFO_BASIC));
    std::ranges::sort(names);
    return names;
  }

  void add_dataset(const std::string& name) {
    const Hdf5Handle dataset =
        dataset_handle(H5Dopen2(file_.id(), name.c_str(), H5P_DEFAULT), path_);
    const Hdf5Handle type = type_handle(H5Dget_type(dataset.id()), path_);
    const Hdf5Handle creation = properties_handle(H5Dget_create_plist(dataset.id()), path_);
    if (H5Pget_layout(creation.id()) == H5D_VIRTUAL) {
      add_tensor(name, dataset, type, creation);
    } else if (name == part_bytes) {
      index_.part_bytes = numbers<std::int64_t>(dataset, H5T_NATIVE_INT64);
    } else if (name == part_checksums) {
      index_.part_checksums = text(dataset, type);
    } else if (text_size(type) > 0) {
      index_.facts.texts[name] = text(dataset, type);
    } else {
      index_.facts.lists[name] = numbers<double>(dataset, H5T_NATIVE_DOUBLE);
    }
  }

  Shape shape_of(const Hdf5Handle& space, const std::string& name) const {
    const std::int64_t dims = check(H5Sget_simple_extent_ndims(space.id()));
    require(dims <= Shape::max_dims, path_, ": ", name, " has ", dims, " dims");
    std::array<hsize_t, Shape::max_dims> extents{};
    check(H5Sget_simple_extent_dims(space.id(), extents.data(), nullptr));
    std::array<std::int64_t, Shape::max_dims> signed_extents{};
    std::ranges::copy(extents, signed_extents.begin());
    return Shape(std::span(signed_extents).first(std::size_t(dims)));
  }

  template <class T>
  std::vector<T> numbers(const Hdf5Handle& dataset, hid_t type) const {
    const Hdf5Handle space = space_handle(H5Dget_space(dataset.id()), path_);
    std::vector<T> values(std::size_t(check(H5Sget_simple_extent_npoints(space.id()))));
    if (!values.empty())
      check(H5Dread(dataset.id(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()));
    return values;
  }

  std::string text(const Hdf5Handle& dataset, const Hdf5Handle& type) const {
    std::string content(text_size(type), '\0');
    require(!content.empty(), path_, ": a text is none");
    check(H5Dread(dataset.id(), type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, content.data()));
    content.resize(std::min(content.size(), content.find('\0')));
    return content;
  }

  void add_tensor(const std::string& name, const Hdf5Handle& dataset, const Hdf5Handle& type,
                  const Hdf5Handle& creation) {
    const bool is_f64 = check(H5Tequal(type.id(), H5T_IEEE_F64LE)) > 0;
    require(is_f64 || check(H5Tequal(type.id(), H5T_IEEE_F32LE)) > 0, path_, ": ", name,
            " is neither f32 nor f64");
    const Hdf5Handle space = space_handle(H5Dget_space(dataset.id()), path_);
    const Shape shape = shape_of(space, name);
    index_.tensors.push_back({name, is_f64 ? DType::f64 : DType::f32, shape});
    std::size_t mappings = 0;
    check(H5Pget_virtual_count(creation.id(), &mappings));
    std::vector<BoxSource>& sources = index_.sources.emplace_back();
    sources.reserve(mappings);
    for (std::size_t number = 0; number < mappings; ++number)
      sources.push_back(source(creation, number, shape.dims(), name));
  }

  BoxSource source(const Hdf5Handle& creation, std::size_t number, int dims,
                   const std::string& name) const {
    BoxSource source;
    std::array<char, 64> file{};
    check(H5Pget_virtual_filename(creation.id(), number, file.data(), file.size()));
    source.part = part_number(file.data(), name);
    std::array<hsize_t, Shape::max_dims> first{}, last{};
    const Hdf5Handle box = space_handle(H5Pget_virtual_vspace(creation.id(), number), path_);
    check(H5Sget_select_bounds(box.id(), first.data(), last.data()));
    std::array<std::int64_t, Shape::max_dims> extents{};
    for (std::size_t dim = 0; dim < std::size_t(dims); ++dim) {
      source.box.begin[dim] = std::int64_t(first[dim]);
      extents[dim] = std::int64_t(last[dim] - first[dim] + 1);
    }
    source.box.extents = Shape(std::span(extents).first(std::size_t(dims)));
    const Hdf5Handle from = space_handle(H5Pget_virtual_srcspace(creation.id(), number), path_);
    check(H5Sget_select_bounds(from.id(), first.data(), last.data()));
    source.at = std::int64_t(first[0]);
    return source;
  }

  int part_number(const std::string& file, const std::string& name) const {
    const std::string_view digits = std::string_view(file).substr(std::min(file.size(), digits_at));
    int number = 0;
    std::from_chars(digits.data(), digits.data() + digits.size(), number);
    require(file == checkpoint_part(number), path_, ": ", name, " is in a file ", file);
    return number;
  }

  const std::string& path_;
  Hdf5Handle file_;
  CheckpointIndex index_;
};

}  // namespace

CheckpointIndex read_index(std::span<const std::byte> bytes, const std::string& path) {
  const Hdf5Lock lock;
  return MasterReader(bytes, path).read();
}

}  // namespace pf
