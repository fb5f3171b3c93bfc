"""Peers: definitions that minicf shares with tools of its field, and those where it differs on purpose, as tests.

No peer is needed to run them: values are worked out by hand. The first word of a test's name is its peer; per peer:

    pytest --collect-only tests/peers | grep -o '::test_[a-z]*' | sort | uniq -c

Files, by theme: `test_measures` (errors, losses, measures of lists), `test_updates` (optimizers, decay, clipping,
initial values, models), `test_schedules` (rates, plateaus, early stopping), `test_lists` (which items, in which order,
similar ones), `test_unknown_ids` (ids, zeros and repeats, new users), `test_splits` (splits and folds) and
`test_estimators` (parameters, fit, search, files). "Tests" are functions; some have several cases.

===========  =====  ===========================================  ======================================================
peer         tests  shared                                       different here, and why
===========  =====  ===========================================  ======================================================
cornac          19  mean + biases + product, clipping of         errors over rows (a user's weight is its test rows);
                    predictions but not of rankings, measures    seen items are left out by default; unknown rows count
                    at k                                         (they are asked for in use); shares round down
fastai          18  y_range, decoupled decay, one cycle, flat    one cycle ends at 1e-4; no row for "#na#" (nothing
                    + cosine, restarts, minimum of lr_find       trains it): the mean row; Adam's defaults: the paper's
implicit        29  seen items, candidates, batches, NDCG and    precision divides by k and is a mean of users (as the
                    AP at k, leave k out                         word says); a list ends where items end; an item is not
                                                                 similar to itself; ties by id
keras           34  patience, min_delta, decays in steps and     eps outside roots, momentum of gradients (PyTorch's);
                    cosines, Glorot, clipping by value           the best weights come back; rows for validation are
                                                                 drawn
lenskit         21  candidates, bias of unknown ids, lists       NDCG discounts the second place; precision divides by k
                    that fall, split at a time, last of users    also where a list is short; n is at least 1
lightfm         17  precision and recall at k, means over users  ranks from 1; ties by id and not by the worst rank; ids
                    with relevant items, shapes of ids, going on grow in `partial_fit`
myfm             5  one-hot pairs are products of rows           unknown ids have the mean row, and none of their own
pytorch         50  SGD, Adam, AdamW, AMSGrad, AdaGrad,          ReduceLROnPlateau waits one epoch less (Keras'); rates
                    RMSProp, losses, clipping, schedulers        move at every step; cosines stay at their end
rankmetrics      3  precision at k, precisions at the hits       AP and NDCG over hits that were possible, not found; a
                                                                 short list ends in False
ranx             4  precision, recall, NDCG                      AP over min(relevant, k): a list of hits alone has 1
rectools        26  precision, recall, coverage, last n, filter  NDCG and AP relative to the best possible list; ids
                    of viewed, itself not similar                ascend; unknown users get the mean user's list
sklearn         41  all conventions of estimators, R^2, NDCG     shares round down (fast.ai's); folds are drawn
spotlight       11  rmse, precision, recall, split by users      deviation of initial factors is an argument
surprise        38  SVD's step, rmse, mae, folds, raw ids,       biases are drawn; the scale is that of the ratings; an
                    zeros, mean of unknowns                      unknown id has the mean row; a user's only rating stays
tfrs             6  products with a query, exclusions, top-k     a list is shorter where k is more than there is
                    accuracy
===========  =====  ===========================================  ======================================================
"""
