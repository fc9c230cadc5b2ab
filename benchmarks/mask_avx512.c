/* Hide AVX-512 and AMX from a process: CPUID faults, and the handler answers it without these features.
 *
 * cc -O2 -shared -fPIC -o mask_avx512.so mask_avx512.c && LD_PRELOAD=$PWD/mask_avx512.so COMMAND
 *
 * Linux on x86-64 with the flag `cpuid_fault` in /proc/cpuinfo; see arch_prctl(2), ARCH_SET_CPUID. Threads and child
 * processes inherit the fault; a program that a child starts loads this library again.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* Leaf 7: AVX512 F, DQ, IFMA, PF, ER, CD, BW, VL; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ; 4VNNIW, 4FMAPS, VP2INTERSECT,
 * AMX-BF16, AVX512-FP16, AMX-TILE, AMX-INT8. Subleaf 1: AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA. */
#define LEAF7_B (1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31)
#define LEAF7_C (1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14)
#define LEAF7_D (1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25)
#define LEAF7_1_A (1u << 4 | 1u << 5 | 1u << 21 | 1u << 23)

static struct sigaction before;

static void set_cpuid(unsigned long enabled) { syscall(SYS_arch_prctl, ARCH_SET_CPUID, enabled); }

static void answer(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)registers[REG_RIP];
    unsigned int leaf, subleaf, a, b, c, d;
    if (info->si_code != SI_KERNEL || code[0] != 0x0f || code[1] != 0xa2) { /* a real fault: let it happen again */
        sigaction(signal, &before, NULL);
        return;
    }
    leaf = (unsigned int)registers[REG_RAX];
    subleaf = (unsigned int)registers[REG_RCX];
    set_cpuid(1);
    __cpuid_count(leaf, subleaf, a, b, c, d);
    set_cpuid(0);
    if (leaf == 7 && subleaf == 0) b &= ~LEAF7_B, c &= ~LEAF7_C, d &= ~LEAF7_D;
    if (leaf == 7 && subleaf == 1) a &= ~LEAF7_1_A;
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void mask(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &before);
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) perror("mask_avx512: this CPU cannot fault on CPUID");
}
