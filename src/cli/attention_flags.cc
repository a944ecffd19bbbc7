#include "cli/attention_flags.h"

#include <map>
#include <optional>

namespace keye::cli {
namespace {

const std::map<std::string, std::optional<DType>>& cache_dtypes() {
  static const std::map<std::string, std::optional<DType>> dtypes = {
      {"auto", std::nullopt},  {"bf16", DType::bf16},        {"bfloat16", DType::bf16}, {"f32", DType::f32},
      {"fp8", DType::f8_e4m3}, {"fp8_e4m3", DType::f8_e4m3}, {"int8", DType::i8},
  };
  return dtypes;
}

/// "fp8" or "int8,fp8": of keys, and of values.
std::pair<std::string, std::string> keys_and_values(const std::string& text) {
  const size_t comma = text.find(',');
  if (comma == std::string::npos) return {text, text};
  return {text.substr(0, comma), text.substr(comma + 1)};
}

}  // namespace

std::string AttentionFlags::check_cache_dtype(const std::string& text) {
  const auto [keys, values] = keys_and_values(text);
  for (const std::string& name : {keys, values}) {
    if (!cache_dtypes().contains(name)) return fmt::format("\"{}\" is not auto, bf16, f32, fp8 or int8", name);
  }
  return {};
}

void AttentionFlags::add(CLI::App& app) {
  app.add_option("--sparse-attention", sparse, "auto: where the checkpoint has an indexer; off: dense over everything")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str();
  app.add_option("--sparse-topk", topk, "tokens that sparse attention keeps (default: the checkpoint's)")
      ->check(CLI::Range(1, 1 << 24));
  app.add_option("--indexer-dtype", indexer, "arithmetic that scores tokens; auto: f32 for f32, fp8 for bf16")
      ->check(CLI::IsMember({"auto", "f32", "fp8"}))
      ->capture_default_str();
  app.add_option("--kv-cache-dtype", kv_cache, "auto (as --dtype), fp8 or int8; or two, of keys and values: int8,fp8")
      ->check(check_cache_dtype)
      ->capture_default_str();
}

model::AttentionOptions AttentionFlags::options(DType dtype) const {
  model::AttentionOptions options;
  options.sparse = sparse == "on"    ? model::SparseAttention::on
                   : sparse == "off" ? model::SparseAttention::off
                                     : model::SparseAttention::automatic;
  options.topk = topk;
  if (indexer != "auto") {
    options.indexer = indexer == "f32" ? model::IndexerArithmetic::exact : model::IndexerArithmetic::f8;
  }
  const auto [keys, values] = keys_and_values(kv_cache);
  options.key_dtype = cache_dtypes().at(keys).value_or(dtype);
  options.value_dtype = cache_dtypes().at(values).value_or(dtype);
  return options;
}

}  // namespace keye::cli
