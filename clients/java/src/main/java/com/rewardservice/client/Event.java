package com.rewardservice.client;

import com.rewardservice.v1.Order;

/** What a {@link Watch} hands out. No {@code toString()} of these prints an order, which could hold cards. */
public sealed interface Event {
    /** An order is shown, for the first time or as it is now. */
    sealed interface OrderEvent extends Event {
        /** The whole order as of its version. */
        Order order();
    }

    /**
     * An order changed.
     *
     * @param order the whole order as of its version
     * @param resumeToken where to continue after it
     */
    record Update(Order order, String resumeToken) implements OrderEvent {
        @Override
        public String toString() {
            return "Update[" + shortly(order) + "]";
        }
    }

    /**
     * An order as it is, at the beginning of a stream. It carries no token: {@link SnapshotEnd} does.
     *
     * @param order the whole order as of its version
     */
    record Snapshot(Order order) implements OrderEvent {
        @Override
        public String toString() {
            return "Snapshot[" + shortly(order) + "]";
        }
    }

    /**
     * The snapshot is complete.
     *
     * @param resumeToken where to continue after it
     */
    record SnapshotEnd(String resumeToken) implements Event {}

    /**
     * Nothing happened for a while.
     *
     * @param resumeToken everything before it was searched; continue there
     */
    record Heartbeat(String resumeToken) implements Event {}

    /**
     * The log could not be continued at the last token: updates may be missing, and a snapshot follows. Forget stored
     * tokens, and believe the snapshot even where versions went down.
     *
     * @param reason RESUME_TOKEN_EXPIRED (the log was pruned beyond the token) or LOG_REWOUND (the server was restored
     *     from a backup: orders may come again with versions that were seen before, and other content)
     */
    record Reset(String reason) implements Event {}

    private static String shortly(Order order) {
        return order.getOrderId() + " version " + order.getVersion();
    }
}
