#include "text/normalizer.h"

#include <algorithm>
#include <optional>

#include "text/json_fields.h"

namespace keye::text {
namespace {

/// Each is a pass over the text; published tokenizers have one.
constexpr size_t kFormsMax = 8;

std::optional<NormalForm> form_named(std::string_view name) {
  if (name == "NFC") return NormalForm::nfc;
  if (name == "NFD") return NormalForm::nfd;
  if (name == "NFKC") return NormalForm::nfkc;
  if (name == "NFKD") return NormalForm::nfkd;
  return std::nullopt;
}

}  // namespace

Result<Normalizer> Normalizer::parse(const Json& normalizer, const std::string& where) {
  Normalizer parsed;
  if (!normalizer.is_null()) KEYE_TRY_VOID(parsed.add(normalizer, where));
  return parsed;
}

Result<void> Normalizer::add(const Json& part, const std::string& where) {
  KEYE_TRY(const std::string type, type_of(part, where));
  if (const std::optional<NormalForm> form = form_named(type)) {
    if (forms_.size() == kFormsMax) {
      return make_error(ErrorCode::too_large, where, "more than {} normal forms are not supported", kFormsMax);
    }
    forms_.push_back(*form);
    if (const auto fields = JsonFields::open(part, where, {"type"}); !fields) return fields.error();
    return {};
  }
  if (type != "Sequence") {
    return make_error(ErrorCode::unsupported, where,
                      "normalizer \"{}\" is not supported, only NFC, NFD, NFKC, NFKD and Sequence", type);
  }
  KEYE_TRY(const JsonFields fields, JsonFields::open(part, where, {"type", "normalizers"}));
  KEYE_TRY(const Json* const parts, fields.array("normalizers"));
  for (size_t i = 0; i < parts->size(); ++i) {
    KEYE_TRY_VOID(add((*parts)[i], fmt::format("{}.normalizers[{}]", where, i)));
  }
  return {};
}

bool Normalizer::leaves(std::string_view text) const {
  return std::all_of(forms_.begin(), forms_.end(), [&](NormalForm form) { return is_surely_normalized(form, text); });
}

Marked Normalizer::apply(std::string_view text, std::string_view origin) const {
  Marked normal;
  normal.text = text;
  normal.origin = origin;
  for (const NormalForm form : forms_) normal = normalize(form, normal.text, normal.origin);
  return normal;
}

}  // namespace keye::text
