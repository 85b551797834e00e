#include "core/cpu/attention_rows.h"

namespace pf {

template <class T>
const AttentionRows<T>& attention_rows(Isa isa) {
  if (isa == Isa::v4) return v4::attention_rows<T>();
  if (isa == Isa::v3) return v3::attention_rows<T>();
  return base::attention_rows<T>();
}

template const AttentionRows<double>& attention_rows(Isa isa);
template const AttentionRows<float>& attention_rows(Isa isa);
template const AttentionRows<Bf16>& attention_rows(Isa isa);

}  // namespace pf
