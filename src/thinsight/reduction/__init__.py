"""What a reduction method is: tokens, evidence, sites, schedules, stages. No transformers here."""
