/* Counts the instructions that an emulated program executes, between marks that it sets.
 *
 * A plugin of QEMU's user mode (docs/devel/tcg-plugins), compiled where it is used. The few
 * prototypes are our own: Debian ships no header for plugins. A mark is a system call of a
 * number that no kernel has; its first argument is written to the file with the count so far.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define MARK 0xED0
#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct block;
struct machine;
enum operation { ADD_U64 };

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, enum operation, void *, uint64_t);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id,
    void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
             uint64_t, uint64_t, uint64_t));
size_t qemu_plugin_tb_n_insns(const struct block *);

EXPORT int qemu_plugin_version = 1;

static uint64_t executed;
static FILE *out;

static void translated(plugin_id id, struct block *block)
{
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &executed,
                                             qemu_plugin_tb_n_insns(block));
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t mark, uint64_t b,
                   uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    if (number == MARK) {
        fprintf(out, "%" PRIu64 " %" PRIu64 "\n", mark, executed);
        fflush(out);
    }
}

EXPORT int qemu_plugin_install(plugin_id id, const struct machine *machine, int argc, char **argv)
{
    for (int place = 0; place < argc; place++)
        if (strncmp(argv[place], "out=", 4) == 0)
            out = fopen(argv[place] + 4, "w");
    if (!out)
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
