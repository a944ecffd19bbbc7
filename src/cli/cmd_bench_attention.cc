#include <cstdio>

#include "base/json.h"
#include "base/machine.h"
#include "base/thread_pool.h"
#include "cli/attention_flags.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "engine/bench_attention.h"
#include "engine/load.h"
#include "model/shapes.h"

namespace keye::cli {
namespace {

OrderedJson to_json(const engine::AttentionTimes& times, const engine::BenchLimits& limits, bool sparse) {
  OrderedJson json;
  json["ms"] = times.total_s * 1e3;
  if (sparse) {
    json["indexer_ms"] = times.indexer_s * 1e3;
    json["selection_ms"] = times.selection_s * 1e3;
  }
  json["attention_ms"] = times.attention_s * 1e3;
  if (times.layer_s > 0) json["layer_ms"] = times.layer_s * 1e3;
  const auto rates = [&](double bytes, double flops, double seconds) {
    return OrderedJson{{"gb_per_s", bytes / seconds / 1e9},
                       {"share_of_bandwidth", bytes / seconds / limits.read_bytes_per_s},
                       {"flops", flops / seconds},
                       {"share_of_peak", flops / seconds / limits.peak_flops}};
  };
  json["attention"] = rates(times.attention_bytes, times.attention_flops, times.attention_s);
  if (sparse) json["selection"] = rates(times.scoring_bytes, times.scoring_flops, times.selection_s);
  return json;
}

OrderedJson to_json(const engine::AttentionReport& report, const engine::BenchAttentionOptions& options,
                    const std::string& shape, const AttentionFlags& flags) {
  OrderedJson json;
  json["shape"] = shape;
  json["context"] = options.context;
  json["chunk"] = options.chunk;
  json["kv"] = flags.kv_cache;
  if (report.topk > 0) json["topk"] = report.topk;
  for (const auto& [name, kind] : {std::pair("dense", &report.dense), std::pair("sparse", &report.sparse)}) {
    if (!*kind) continue;
    const bool sparse = kind == &report.sparse;
    json[name] = {{"decode", to_json((*kind)->decode, report.limits, sparse)},
                  {"prefill", to_json((*kind)->prefill, report.limits, sparse)}};
  }
  if (report.dense && report.sparse) {
    json["sparse_to_dense"] = {{"decode", report.sparse->decode.total_s / report.dense->decode.total_s},
                               {"prefill", report.sparse->prefill.total_s / report.dense->prefill.total_s}};
  }
  json["limits"] = {{"gb_per_s", report.limits.read_bytes_per_s / 1e9}, {"flops", report.limits.peak_flops}};
  json["machine"] = {{"processor", processor_name()},
                     {"threads", options.threads == 0 ? ThreadPool::processors() : options.threads},
                     {"backend", report.backend}};
  return json;
}

void print_row(const char* kind, const char* phase, const engine::AttentionTimes& times,
               const engine::BenchLimits& limits, bool sparse) {
  const auto shares = [&](double bytes, double flops, double seconds) {
    return fmt::format("{:6.1f} GB/s {:3.0f} % {:6.0f} GFLOP/s {:3.0f} %", bytes / seconds / 1e9,
                       100 * bytes / seconds / limits.read_bytes_per_s, flops / seconds / 1e9,
                       100 * flops / seconds / limits.peak_flops);
  };
  std::puts(fmt::format("{:<6} {:<7} {:>10.3f} ms   attention {:>10.3f} ms  {}", kind, phase, times.total_s * 1e3,
                        times.attention_s * 1e3,
                        shares(times.attention_bytes, times.attention_flops, times.attention_s))
                .c_str());
  if (sparse) {
    std::puts(fmt::format("{:<28} selection {:>10.3f} ms  {}", "", times.selection_s * 1e3,
                          shares(times.scoring_bytes, times.scoring_flops, times.selection_s))
                  .c_str());
    std::puts(fmt::format("{:<28} indexer   {:>10.3f} ms", "", times.indexer_s * 1e3).c_str());
  }
  if (times.layer_s > 0) std::puts(fmt::format("{:<28} layer     {:>10.3f} ms", "", times.layer_s * 1e3).c_str());
}

void print_table(const engine::AttentionReport& report, const engine::BenchAttentionOptions& options,
                 const std::string& shape) {
  std::puts(fmt::format("{}: one layer, backend {}, {}", shape, report.backend, processor_name()).c_str());
  std::puts(fmt::format("limits  memory read {:.1f} GB/s, multiply-add {:.0f} GFLOP/s",
                        report.limits.read_bytes_per_s / 1e9, report.limits.peak_flops / 1e9)
                .c_str());
  std::puts(
      fmt::format("decode: 1 token at {}; prefill: {} tokens from there on", options.context, options.chunk).c_str());
  for (const auto& [name, kind] : {std::pair("dense", &report.dense), std::pair("sparse", &report.sparse)}) {
    if (!*kind) continue;
    print_row(name, "decode", (*kind)->decode, report.limits, kind == &report.sparse);
    print_row(name, "prefill", (*kind)->prefill, report.limits, kind == &report.sparse);
  }
  if (report.dense && report.sparse) {
    std::puts(fmt::format("sparse / dense: decode {:.3f}, prefill {:.3f}",
                          report.sparse->decode.total_s / report.dense->decode.total_s,
                          report.sparse->prefill.total_s / report.dense->prefill.total_s)
                  .c_str());
  }
}

}  // namespace

int cmd_bench_attention(int argc, char** argv) {
  CLI::App app(
      "Measures one layer's attention with random weights and a random cache: a decoding step and a prefill step",
      "bench attention");
  std::string shape = "keye-2.0-30b-a3b";
  std::string which = "both";
  AttentionFlags flags;
  engine::BenchAttentionOptions options;
  bool as_json = false;
  app.add_option("--shape", shape, fmt::format("one of {}", fmt::join(model::shape_names(), ", ")))
      ->capture_default_str();
  app.add_option("--context", options.context, "tokens that are in the cache")->capture_default_str();
  app.add_option("--chunk", options.chunk, "tokens of the prefill step")
      ->check(CLI::Range(1, 8192))
      ->capture_default_str();
  app.add_option("--sparse", which, "which attention")
      ->check(CLI::IsMember({"on", "off", "both"}))
      ->capture_default_str();
  app.add_option("--kv", flags.kv_cache, "cache in bf16, fp8 or int8; or two, of keys and values: int8,fp8")
      ->check(AttentionFlags::check_cache_dtype)
      ->capture_default_str();
  app.add_option("--topk", options.topk, "tokens that sparse attention keeps (default: the shape's)")
      ->check(CLI::Range(1, 1 << 24));
  app.add_flag("--layer", options.layer, "also time the whole layer, projections and experts included");
  app.add_option("--seconds", options.seconds, "for each figure, at least")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "0: one for each processor")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--isa", options.isa, "instruction set: avx512_bf16, avx512, avx2 or scalar (default: the best here)");
  app.add_flag("--json", as_json, "print one JSON object");
  if (const auto code = parse_flags(app, argc, argv)) return *code;
  options.dense = which != "on";
  options.sparse = which != "off";
  const model::AttentionOptions attention = flags.options(DType::bf16);
  options.key_dtype = *attention.key_dtype;
  options.value_dtype = *attention.value_dtype;
  const auto config = model::named_shape(shape);
  if (!config) return report("bench attention", config.error());
  const auto result = engine::run_bench_attention(*config, options, bench_progress());
  clear_progress();
  if (!result) return report("bench attention", result.error());
  if (as_json) {
    std::puts(to_json(*result, options, shape, flags).dump(2).c_str());
  } else {
    print_table(*result, options, shape);
  }
  return kExitOk;
}

}  // namespace keye::cli
