package rewardservice

import (
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/type/money"

	pb "example.com/rewardservice/rewardservicev1"
)

// IsTerminal tells whether an order has ended: nothing more is bought or delivered.
func IsTerminal(order *pb.Order) bool {
	switch order.GetState() {
	case pb.OrderState_ORDER_STATE_FULFILLED,
		pb.OrderState_ORDER_STATE_PARTIALLY_FULFILLED,
		pb.OrderState_ORDER_STATE_FAILED,
		pb.OrderState_ORDER_STATE_CANCELLED:
		return true
	default:
		return false
	}
}

// IsSettled tells whether waiting is over: the order has ended, or a person has to look at it.
func IsSettled(order *pb.Order) bool {
	return IsTerminal(order) || order.GetState() == pb.OrderState_ORDER_STATE_NEEDS_REVIEW
}

// StateName is a state without its prefix, as in "FULFILLED"; its number when it is newer than this client.
func StateName(state pb.OrderState) string {
	return strings.TrimPrefix(state.String(), "ORDER_STATE_")
}

// Phone is a recipient by phone number, as in Phone("+86", "13800138000").
func Phone(areaCode, number string) *pb.Recipient {
	return &pb.Recipient{Recipient: &pb.Recipient_Phone{Phone: &pb.PhoneNumber{AreaCode: areaCode, Number: number}}}
}

// QQ is a recipient by QQ number.
func QQ(number string) *pb.Recipient {
	return &pb.Recipient{Recipient: &pb.Recipient_Qq{Qq: number}}
}

// Account is a recipient by the account name at the reward's own service.
func Account(name string) *pb.Recipient {
	return &pb.Recipient{Recipient: &pb.Recipient_Account{Account: name}}
}

// Yuan is an amount of money from text such as "98.50", with at most nine decimals.
func Yuan(amount string) (*money.Money, error) {
	digits, negative := strings.CutPrefix(amount, "-")
	whole, fraction, hasPoint := strings.Cut(digits, ".")
	if !isDigits(whole) || hasPoint && !isDigits(fraction) || len(whole) > 15 || len(fraction) > 9 {
		return nil, fmt.Errorf("rewardservice: not an amount of yuan: %.40q", amount)
	}
	units, _ := strconv.ParseInt(whole, 10, 64)
	nanos, _ := strconv.ParseInt((fraction + "000000000")[:9], 10, 32)
	if negative {
		units, nanos = -units, -nanos
	}
	return &money.Money{CurrencyCode: "CNY", Units: units, Nanos: int32(nanos)}, nil
}

// FormatYuan is an amount as text with at least two decimals, as in "98.50".
func FormatYuan(amount *money.Money) string {
	units, nanos, sign := amount.GetUnits(), amount.GetNanos(), ""
	if units < 0 || nanos < 0 {
		units, nanos, sign = -units, -nanos, "-"
	}
	fraction := fmt.Sprintf("%09d", nanos)
	return fmt.Sprintf("%s%d.%s%s", sign, units, fraction[:2], strings.TrimRight(fraction[2:], "0"))
}

func isDigits(text string) bool {
	return text != "" && strings.Trim(text, "0123456789") == ""
}
