"""What a survey computes: its options, the depths, the photos and the tasks."""
