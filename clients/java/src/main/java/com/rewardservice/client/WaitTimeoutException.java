package com.rewardservice.client;

import com.rewardservice.v1.Order;
import io.grpc.Status;
import java.util.Optional;

/** {@link RewardClient#waitFor} ended before the order did. The order goes on. */
public final class WaitTimeoutException extends RewardException {
    private static final long serialVersionUID = 1L;

    private final transient Order order;

    WaitTimeoutException(String description, Order order) {
        super(Status.Code.DEADLINE_EXCEEDED, description);
        this.order = order;
    }

    /** The order as last seen; empty if it was never seen. */
    public Optional<Order> order() {
        return Optional.ofNullable(order);
    }
}
