/* What Levee uses of libdpdk, as bindgen reads it. The allow-list in build.rs
 * picks the names; here are the headers and what C only offers as a macro or a
 * thread-local variable. */
#include <rte_alarm.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* rte_errno is a thread-local variable, which Rust cannot link to. */
static inline int levee_errno(void) { return rte_errno; }

/* RTE_BIT64() is function-like, so bindgen skips these. */
static const uint64_t LEVEE_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t LEVEE_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

/* Kinds of packets that a card can spread over queues. By their addresses alone, whatever they carry: */
static const uint64_t LEVEE_RSS_IPV4 = RTE_ETH_RSS_IPV4;
static const uint64_t LEVEE_RSS_IPV6 = RTE_ETH_RSS_IPV6;
static const uint64_t LEVEE_RSS_IP = RTE_ETH_RSS_IP;
/* and by ports too: */
static const uint64_t LEVEE_RSS_TRANSPORT = RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
