#include "core/cpu/attention_rows.h"

namespace pf {

template <class T>
const AttentionRows<T>& attention_rows(Isa isa) {
  return of_isa(isa, base::attention_rows<T>, v3::attention_rows<T>, v4::attention_rows<T>)();
}

template const AttentionRows<double>& attention_rows(Isa isa);
template const AttentionRows<float>& attention_rows(Isa isa);
template const AttentionRows<Bf16>& attention_rows(Isa isa);

}  // namespace pf
