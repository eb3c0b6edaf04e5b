"""What people's votes say: win rates, strengths, agreement, and who clicked at random."""
