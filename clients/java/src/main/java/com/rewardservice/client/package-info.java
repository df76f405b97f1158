/**
 * Client of RewardService: orders rewards once and only once, and follows them through restarts and cut connections.
 *
 * <p>Begin with {@link com.rewardservice.client.RewardClient}. Requests and answers are the messages of the contract,
 * in {@code com.rewardservice.v1}. Beware of their {@code toString()}: it prints every field, the secrets of cards too.
 */
package com.rewardservice.client;
