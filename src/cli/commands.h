// The commands of `keye`. Each takes its own arguments (argv[0] is its name) and returns the exit code.
#pragma once

namespace keye::cli {

int cmd_run(int argc, char** argv);
int cmd_serve(int argc, char** argv);
int cmd_doctor(int argc, char** argv);
int cmd_info(int argc, char** argv);
int cmd_tokenize(int argc, char** argv);
int cmd_detokenize(int argc, char** argv);
int cmd_render(int argc, char** argv);
int cmd_preprocess(int argc, char** argv);
int cmd_video_plan(int argc, char** argv);
int cmd_plan(int argc, char** argv);
int cmd_logits(int argc, char** argv);
int cmd_bench(int argc, char** argv);
/// `keye bench attention`; argv[0] is "attention".
int cmd_bench_attention(int argc, char** argv);
/// `keye bench serve`; argv[0] is "serve".
int cmd_bench_serve(int argc, char** argv);
/// This program as a further rank of a node, no command of the user's: rank COMMAND [FLAGS] --channel N.
int cmd_rank(int argc, char** argv);
/// The commands that it can be a rank of.
int cmd_serve_rank(int argc, char** argv, int channel);
int cmd_bench_rank(int argc, char** argv, int channel);

}  // namespace keye::cli
