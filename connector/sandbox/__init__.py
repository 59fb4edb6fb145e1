"""The sandbox that training steps run in."""
