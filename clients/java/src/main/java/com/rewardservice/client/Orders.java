package com.rewardservice.client;

import com.rewardservice.v1.Order;
import com.rewardservice.v1.OrderState;

/** What the states of orders mean. */
public final class Orders {
    private Orders() {}

    /** Whether the order has ended: nothing more is bought or delivered. */
    public static boolean isTerminal(Order order) {
        return switch (order.getState()) {
            case ORDER_STATE_FULFILLED, ORDER_STATE_PARTIALLY_FULFILLED -> true;
            case ORDER_STATE_FAILED, ORDER_STATE_CANCELLED -> true;
            default -> false;
        };
    }

    /** Whether waiting is over: the order has ended, or a person has to look at it. */
    public static boolean isSettled(Order order) {
        return isTerminal(order) || order.getState() == OrderState.ORDER_STATE_NEEDS_REVIEW;
    }

    /** The state without its prefix, as in "FULFILLED"; its number when it is newer than this client. */
    public static String stateName(Order order) {
        return order.getState() == OrderState.UNRECOGNIZED
                ? String.valueOf(order.getStateValue())
                : order.getState().name().substring("ORDER_STATE_".length());
    }
}
