/* A plugin of qemu-user that counts the guest's instructions between two marks.
 *
 * The guest marks a moment of file i by the system call getpgid(0x53540000 + i), which
 * no program makes otherwise; each mark prints "mark i N", N the instructions of all
 * threads since the mark before. qemu prints that where its -D says.
 *
 * Debian ships no header of the plugin API, so the part used is declared here: version
 * 1 of the API, of qemu 4.2 to 8.2 (later ones refuse the plugin as it loads).
 *
 *   gcc -O2 -shared -fPIC -o libcount_instructions.so count_instructions.c
 *   qemu-aarch64 -plugin ./libcount_instructions.so -d plugin -D LOG ...
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define MARK 0x5354u
#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef struct {
  const char *target_name;
  struct {
    int min, cur;
  } version;
  bool system_emulation;
  union {
    struct {
      int smp_vcpus, max_vcpus;
    } system;
  };
} qemu_info_t;
struct qemu_plugin_tb;
enum { INLINE_ADD_U64 = 0 };

typedef void (*translated_t)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*syscall_t)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t,
                          uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_t);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_t);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int operation,
                                              void *address, uint64_t value);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
void qemu_plugin_outs(const char *);

EXPORT int qemu_plugin_version = 1;

static uint64_t instructions, last;
static int64_t getpgid_number;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD_U64, &instructions,
                                           qemu_plugin_tb_n_insns(block));
}

static void called(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t a1,
                   uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6,
                   uint64_t a7, uint64_t a8) {
  (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7;
  (void)a8;
  uint32_t argument = (uint32_t)a1;
  if (number != getpgid_number || argument >> 16 != MARK) return;
  char line[64];
  snprintf(line, sizeof line, "mark %u %" PRIu64 "\n", (unsigned)(argument & 0xffff),
           instructions - last);
  qemu_plugin_outs(line);
  last = instructions;
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
                               char **argv) {
  (void)argc, (void)argv;
  /* The system call's number: x86-64 has its own table, arm64 the common one. */
  getpgid_number = strcmp(info->target_name, "x86_64") == 0 ? 121 : 155;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  return 0;
}
